"""The dashboard's static files: their headers, their content policy and the rules for their code."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bridge.core.credential import CredentialState
from bridge.core.model import DeliveryState, Outcome
from bridge.core.receivers import ReceiverHealth
from bridge.web.dashboard.alert import Kind, Level
from bridge.web.dashboard.assets import FOLDER
from tests.dashboard.harness import running_bridge

CODE = sorted(path for path in FOLDER.iterdir() if path.suffix in {".js", ".css", ".html", ".svg"})
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}


class Tags(HTMLParser):
    """Collects every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags() -> Iterator[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed((FOLDER / "index.html").read_text())
    yield from parser.found


async def test_the_document_and_its_files_have_a_strict_content_policy(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        for path in ("/", "/page/static/app.js", "/page/static/style.css"):
            answer = await bridge.request("GET", path)
            assert answer.status == 200
            policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
            assert policy == POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
        document = await bridge.request("GET", "/")
        assert document.headers["Cache-Control"] == "no-store"
        assert document.headers["Content-Type"] == "text/html; charset=utf-8"
        assert 'method="post" action="page/sign-in"' in document.text
        assert "{" not in re.sub(r"<script.*?</script>", "", document.text)


async def test_files_are_cached_and_revalidated(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        first = await bridge.request("GET", "/page/static/style.css")
        assert first.headers["Cache-Control"] == "no-cache"
        again = await bridge.request("GET", "/page/static/style.css", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "name", ["..%2fpage.py", "%2e%2e%2fpage.py", "index.html", "nothing.js", "..%5cpage.py", "%00"]
)
async def test_no_other_file_is_served(tmp_path: Path, name: str) -> None:
    async with running_bridge(tmp_path) as bridge:
        assert (await bridge.request("GET", f"/page/static/{name}")).status == 404


async def test_paths_that_a_user_may_open_lead_to_the_document(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        for path in ("/page", "/page/", "/page/sign-in"):
            answer = await bridge.request("GET", path, allow_redirects=True)
            assert answer.status == 200
            assert 'id="sign-in"' in answer.text


def test_no_code_is_inline_and_nothing_is_loaded_from_another_site() -> None:
    for tag, attributes in tags():
        assert tag != "style"
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "script" or (attributes.get("src") or "").startswith("{root}page/static/")
    for path in CODE:
        for url in re.findall(r"https?://[^\s\"'`)]+", path.read_text()):
            example = url.startswith("http://127.0.0.1:9000/")  # a receiver in a command that the page shows
            assert example or url.startswith("http://www.w3.org/"), f"{path.name}: {url}"


def test_no_script_parses_markup() -> None:
    for path in CODE:
        if path.suffix == ".js":
            used = re.findall(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|DOMParser", path.read_text()
            )
            assert used == [], path.name


def test_every_control_has_a_name_and_every_reference_has_a_target() -> None:
    ids = {attributes["id"] for _, attributes in tags() if "id" in attributes}
    text = (FOLDER / "index.html").read_text()
    for tag, attributes in tags():
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set((attributes.get(name) or "").split()) <= ids | {"watch-title", "dialog-title"}, attributes
        if tag == "input":
            named = "aria-label" in attributes or f'for="{attributes.get("id")}"' in text
            assert named or attributes.get("aria-hidden") == "true", attributes
    scripts = "".join(path.read_text() for path in CODE if path.suffix == ".js")
    built = set(re.findall(r'id: "([a-z-]+)"', scripts))
    for path in CODE:
        if path.suffix == ".js":
            assert set(re.findall(r'byId\("([a-z-]+)"\)', path.read_text())) <= ids | built, path.name


# --- the scripts' imports -----------------------------------------------------------------------------------------

# From top to bottom: each file imports only files of the layers below its own.
SCRIPT_LAYERS = (
    {"app.js"},
    {"overview.js", "table.js", "watch.js", "charts.js", "connection.js"},
    {"alerts.js", "first.js", "filters.js", "payload.js", "receivers.js", "results.js", "timeline.js"},
    {"bulk.js"},
    {"dialogs.js"},
    {"copy.js", "disclosure.js", "navigate.js", "time.js"},
    {"dom.js", "format.js", "net.js", "state.js", "theme.js"},
)


def imports_of(name: str) -> set[str]:
    """Returns the files that a script imports: `import ... from "./dom.js"`."""
    return set(re.findall(r'^(?:import|export) .*? from "\./([^"]+)";$', (FOLDER / name).read_text(), re.MULTILINE))


def test_every_script_imports_only_scripts_of_lower_layers_so_that_there_is_no_cycle() -> None:
    scripts = {path.name for path in FOLDER.glob("*.js")}
    assert scripts == set().union(*SCRIPT_LAYERS)
    for place, layer in enumerate(SCRIPT_LAYERS):
        below = set().union(*SCRIPT_LAYERS[place + 1 :])
        for name in layer:
            assert imports_of(name) <= below, name
            assert len(imports_of(name)) == len(
                re.findall(r"\b(?:from|import)\b[^\n]*\./", (FOLDER / name).read_text())
            )


def test_every_script_begins_with_a_comment_that_says_what_it_does() -> None:
    for path in FOLDER.glob("*.js"):
        assert re.match(r"// [A-Z].*\.$", path.read_text().splitlines()[0]), path.name


def test_every_import_of_a_script_is_exported_and_every_export_is_imported() -> None:
    imported: set[tuple[str, str]] = set()
    exported: set[tuple[str, str]] = set()
    for path in FOLDER.glob("*.js"):
        text = path.read_text()
        for names, source in re.findall(r'^import \{ (.*?) \} from "\./([^"]+)";$', text, re.MULTILINE):
            imported |= {(source, name) for name in names.split(", ")}
            assert all(len(re.findall(rf"\b{name}\b", text)) > 1 for name in names.split(", ")), path.name
        declared = re.findall(r"^export (?:async )?(?:function|const|let|class) (\w+)", text, re.MULTILINE)
        exported |= {(path.name, name) for name in declared}
    assert imported <= exported
    assert exported - imported == set()


def test_every_enum_member_that_a_script_shows_has_its_text_or_icon() -> None:
    for table, file, states in (
        ("KEY_STATES", "overview.js", CredentialState),
        ("DELIVERY_ICONS", "watch.js", DeliveryState),
        ("OUTCOME_ICONS", "format.js", Outcome),
        ("LEVEL_NAMES", "alerts.js", Level),
        ("KIND_NAMES", "alerts.js", Kind),
        ("HEALTH_ICONS", "receivers.js", ReceiverHealth),
    ):
        found = re.search(rf"const {table} = {{(.*?)}};", (FOLDER / file).read_text(), re.DOTALL)
        assert found is not None
        assert set(re.findall(r"(\w+): ", found[1])) == {str(state) for state in states}


def test_every_class_and_icon_that_the_code_uses_is_defined() -> None:
    style = "".join(path.read_text() for path in FOLDER.glob("*.css"))
    document = (FOLDER / "index.html").read_text()
    defined = set(re.findall(r"\.([a-z][a-z-]*)", style))
    code = document + "".join(path.read_text() for path in FOLDER.glob("*.js"))
    used = {name for names in re.findall(r'class(?:: |=)"([a-z -]+)"', code) for name in names.split()}
    assert used <= defined
    icons = set(re.findall(r'id="icon-([a-z]+)"', document))
    assert set(re.findall(r'icon\("([a-z]+)"\)', code)) <= icons
    assert {str(level) for level in Level} <= icons


def test_every_file_is_small() -> None:
    assert sum(path.stat().st_size for path in CODE) < 140_000
    assert {path.name for path in CODE if len(path.read_text().splitlines()) > 400} == set()
