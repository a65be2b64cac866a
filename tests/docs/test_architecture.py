"""The folder map and the layers of docs/architecture.md are those of the package and of its import contract."""

import re
import tomllib

from tests.docs.harness import DOCS, ROOT, section, table_rows

PAGE = DOCS / "architecture.md"


def test_the_folder_map_has_every_folder_of_the_package() -> None:
    named = {folder.strip("`") for folder, _ in table_rows(section(PAGE, "## Folders"))}
    packages = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "bridge").rglob("__init__.py")}
    assert named == {f"{name}/" for name in packages} - {"bridge/", "bridge/store/migrations/versions/"}


def test_the_layers_are_those_of_the_import_contract() -> None:
    [shown] = re.findall(r"^```\n(cli\n.*?)^```$", section(PAGE, "## Layers"), re.MULTILINE | re.DOTALL)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert shown.splitlines() == layers
