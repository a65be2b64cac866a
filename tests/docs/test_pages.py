"""On every page, links and names of commands, tests and modules are valid, and a test runs each shell block."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from bridge import __version__
from bridge.cli.parser import build_parser
from tests.docs.harness import DOCS, PAGES, README, ROOT, all_text, blocks, page_name, text

# For each page, words of each shell block and what runs the block. Blocks that need a container engine run in
# tests/image; the others run in this folder. A page that is run as a whole has one entry, "".
RUN_BY = {
    "README.md": {
        "amux-bridge demo": "test_the_whole_tour_without_a_key_works_in_one_terminal_within_three_minutes",
        "serve --sandbox": "test_the_commands_without_a_key_work_when_pasted_in_one_terminal",
        "kill $bridge; wait": "test_the_commands_without_a_key_work_when_pasted_in_one_terminal",
        "amux-bridge listen --port": "test_the_commands_with_a_key_work_when_pasted_in_one_terminal",
        "amux-bridge watch task_": "test_the_commands_with_a_key_work_when_pasted_in_one_terminal",
        "8080/watch": "test_the_commands_with_a_key_work_when_pasted_in_one_terminal",
        ".venv/bin/pytest -n 4 --cov\n": ".ci/run",
    },
    "docs/api.md": {"": "test_each_request_of_the_tour_has_the_answer_that_is_shown"},
    "docs/operations.md": {
        "127.0.0.0/8,::1/128 amux-bridge serve": "test_a_sidecar_sends_callbacks_to_loopback",
        "docker run": "tests/image/run_image.py",
        "docker exec": "tests/image/run_image.py",
        "cat > .env": "test_replicas_share_one_env_file",
        "backup backup/bridge.db\n": "test_a_backup_of_a_running_bridge_restores_everything",
        "pg_dump": "test_a_dump_of_postgresql_restores_everything",
        "pg_restore": "test_a_dump_of_postgresql_restores_everything",
        "rm -f bridge.db": "test_a_backup_of_a_running_bridge_restores_everything",
    },
    "docs/receivers.md": {
        "openssl dgst": "test_the_shell_check_accepts_a_good_signature_and_refuses_a_bad_one",
        "listen --pull": "tests/cli/test_pull.py",
    },
    ".github/CONTRIBUTING.md": {"-e '.[test,postgres]'": ".ci/run"},
}
MAX_LINES_IN_README = 200
# The languages of the blocks that tests run or compare; text and blocks without a language are diagrams and output.
LANGUAGES = {
    "README.md": {"sh", "json", "python"},
    "docs/receivers.md": {"sh", "json", "python", "js", "go"},
    "docs/api.md": {"sh", "json", "text"},
}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_each_shell_block_is_run_by_a_test(page: Path) -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    runners = RUN_BY.get(page_name(page), {})
    for one in blocks(page, "sh"):
        subprocess.run(["/bin/sh", "-n"], input=one, text=True, check=True)
        [runner] = [runner for words, runner in runners.items() if words in one]
        assert f"def {runner}(" in sources or (ROOT / runner).is_file(), runner
    if "" not in runners:
        assert len(runners) == len(blocks(page, "sh"))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_a_page_has_only_blocks_in_languages_that_a_test_runs(page: Path) -> None:
    assert set(re.findall(r"^```(\w+)$", text(page), re.MULTILINE)) <= LANGUAGES.get(page_name(page), {"sh"})


def test_the_changelog_begins_with_unreleased_changes_and_has_the_current_version() -> None:
    versions = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", text(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == __version__
    assert all(date for _, date in versions[1:])


def test_the_readme_begins_with_three_sentences_and_is_short() -> None:
    first = text(README).split("\n\n")[1]
    assert len(re.findall(r"[.!?](?:\s|$)", first)) == 3
    assert len(text(README).splitlines()) <= MAX_LINES_IN_README


def test_every_command_that_a_page_names_exists() -> None:
    commands = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]  # argparse's own
    assert commands is not None
    inline = re.findall(r"`[^`\n]+`", all_text())
    scripts = [one for page in PAGES for one in blocks(page, "sh")]
    named = set(re.findall(r"amux-bridge ([a-z]+)\b", "\n".join(inline + scripts)))
    assert named - {"amux"} <= set(commands)
    assert {"demo", "serve", "listen", "watch", "secret"} <= named


def places(page: Path) -> set[str]:
    """Returns the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#{2,} (.*)$", text(page), re.MULTILINE)
    return {re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_of_a_page_has_a_target(page: Path) -> None:
    for target in set(re.findall(r"\]\(([^)\s]+)\)", text(page))):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        assert not anchor or anchor in places(linked), target


def test_every_page_of_the_docs_is_linked_in_the_readme() -> None:
    assert not [page.name for page in DOCS.glob("*.md") if f"](docs/{page.name})" not in text(README)]


def test_every_test_and_module_that_a_page_names_exists() -> None:
    named = set(re.findall(r"`((?:tests|bridge|examples|docs|\.ci|\.github)/[\w./-]*)`", all_text()))
    assert len([name for name in named if name.startswith("tests/")]) > 20
    assert not [name for name in named if not (ROOT / name).exists()]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    [command] = re.findall(r"^python3 -m venv .*pytest -n 4 --cov$", text(README), re.MULTILINE)
    [pattern] = re.findall(r"sed -n '/(\^python3 .*)/p' README\.md", (ROOT / ".ci/run").read_text())
    assert re.fullmatch(pattern, command)
    assert [f"{command}\n"] == blocks(ROOT / ".github/CONTRIBUTING.md", "sh")
    assert os.access(ROOT / ".ci/run", os.X_OK)
