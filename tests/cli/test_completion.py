"""`completion`: the scripts work in the shells themselves."""

import subprocess
from pathlib import Path

import pytest

from tests.cli.harness import Command
from tests.programs import program

BASH = """\
source "$1"
complete_words() {
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _shtab_amux_bridge amux-bridge "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
  echo "${COMPREPLY[*]}"
}
complete_words amux-bridge l
complete_words amux-bridge list --st
complete_words amux-bridge list --state ""
complete_words amux-bridge secret r
"""
FISH = """\
source $argv[1]
echo (complete -C "amux-bridge lis" | string split -f1 \\t)
echo (complete -C "amux-bridge list --st" | string split -f1 \\t)
echo (complete -C "amux-bridge list --state " | string split -f1 \\t)
echo (complete -C "amux-bridge secret r" | string split -f1 \\t)
"""
ZSH = """\
fpath=($1 $fpath)
autoload -U compinit
compinit -D -u
print ${_comps[amux-bridge]}
zsh -n $1/_amux-bridge && print parsed
"""


@pytest.fixture
def folder(command: Command, tmp_path: Path) -> Path:
    for shell in ("bash", "zsh", "fish"):
        result = command("completion", shell)
        assert (result.code, result.err) == (0, "")
        (tmp_path / shell).write_text(result.out)
    return tmp_path


def run(shell: str, script: str, *arguments: str) -> list[str]:
    done = subprocess.run(
        [program(shell, shell), "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash_completes_commands_options_and_values(folder: Path) -> None:
    lines = run("bash", BASH, "bash", str(folder / "bash"))
    assert set(lines[0].split()) == {"list", "listen"}
    assert lines[1:] == ["--state", "active settled cancelled", "rotate"]


def test_fish_completes_commands_options_and_values(folder: Path) -> None:
    lines = run("fish", FISH, str(folder / "fish"))
    assert set(lines[0].split()) == {"list", "listen"}
    assert lines[1] == "--state"
    assert set(lines[2].split()) == {"active", "settled", "cancelled"}
    assert lines[3] == "rotate"


def test_zsh_takes_the_script_as_the_commands_completion(folder: Path) -> None:
    functions = folder / "functions"
    functions.mkdir()
    (folder / "zsh").rename(functions / "_amux-bridge")
    assert run("zsh", ZSH, "zsh", str(functions)) == ["_amux-bridge", "parsed"]
