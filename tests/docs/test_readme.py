"""What the README says is what is: its table of settings, its commands and the tests that it names.

`python tests/docs/test_readme.py` writes the table of settings anew.
"""

import os
import re
import sys

from bridge.cli.main import build_parser
from bridge.settings.settings import describe
from tests.docs.harness import README, ROOT, blocks, text

BEGIN, END = (
    "<!-- settings: made of bridge/settings/settings.py, held to it by tests/docs/test_readme.py -->",
    "<!-- end of settings -->",
)


def settings_table() -> str:
    rows = ["| name | default | |", "|---|---|---|"]
    for name, default, description in describe():
        shown = f"`{default}`".replace(",", ", ") if default else ""
        rows.append(f"| `{name}` | {shown} | {description.replace('|', chr(92) + '|')} |")
    return "\n".join(rows)


# --- words --------------------------------------------------------------------------------------------------------


def test_the_table_of_settings_is_the_codes() -> None:
    written = text().partition(BEGIN)[2].partition(END)[0].strip()
    assert written == settings_table(), "run: python tests/docs/test_readme.py"


def test_it_begins_with_three_sentences_and_ends_with_what_changed() -> None:
    first = text().split("\n\n")[1]
    assert len(re.findall(r"[.!?](?:\s|$)", first)) == 3
    assert re.findall(r"^## (.*)$", text(), re.MULTILINE)[-1] == "What changed"


def test_every_command_that_it_names_is_there() -> None:
    commands = build_parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]  # argparse's own
    assert commands is not None
    named = set(re.findall(r"amux-bridge ([a-z]+)\b", "\n".join(re.findall(r"`[^`\n]+`", text()) + blocks("sh"))))
    assert named - {"amux"} <= set(commands)
    assert {"demo", "serve", "listen", "watch", "secret"} <= named


def test_every_place_in_it_that_it_points_to_is_there() -> None:
    headings = re.findall(r"^## (.*)$", text(), re.MULTILINE)
    places = {"#" + re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    targets = set(re.findall(r"\]\(([^)]+)\)", text()))
    assert {target for target in targets if target.startswith("#")} <= places
    assert not [it for it in targets if not it.startswith(("#", "https://")) and not (ROOT / it).is_file()]


def test_every_test_that_it_names_is_there() -> None:
    named = set(re.findall(r"`(tests/[^`]+\.py)`", README.read_text("utf-8")))
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).is_file()]


def test_ci_runs_the_readmes_own_test_command() -> None:
    [command] = re.findall(r"^python3 -m venv .*pytest -n 3$", text(), re.MULTILINE)
    [pattern] = re.findall(r"sed -n '/(\^python3 .*)/p' README\.md", (ROOT / ".ci/run").read_text())
    assert re.fullmatch(pattern, command)
    assert os.access(ROOT / ".ci/run", os.X_OK)


if __name__ == "__main__":
    before, _, rest = text().partition(BEGIN)
    README.write_text(f"{before}{BEGIN}\n{settings_table()}\n{END}{rest.partition(END)[2]}", "utf-8")
    sys.stdout.write("README.md has the settings as they are\n")
