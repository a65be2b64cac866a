import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bridge.web.dashboard.assets import FOLDER
from tests.dashboard.harness import staged

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
    """Every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags() -> Iterator[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed((FOLDER / "index.html").read_text())
    yield from parser.found


async def test_the_page_is_for_everyone_the_same_and_under_a_strict_policy(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for path in ("/", "/page/static/app.js", "/page/static/style.css"):
            answer = await stage.ask("GET", path)
            assert answer.status == 200
            policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
            assert policy == POLICY
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
        document = await stage.ask("GET", "/")
        assert document.headers["Cache-Control"] == "no-store"
        assert document.headers["Content-Type"] == "text/html; charset=utf-8"
        assert 'method="post" action="page/sign-in"' in document.text
        assert "{" not in re.sub(r"<script.*?</script>", "", document.text)


async def test_files_are_kept_by_browsers_and_asked_about_each_time(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        first = await stage.ask("GET", "/page/static/style.css")
        assert first.headers["Cache-Control"] == "no-cache"
        again = await stage.ask("GET", "/page/static/style.css", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")


@pytest.mark.parametrize(
    "name", ["..%2fpage.py", "%2e%2e%2fpage.py", "index.html", "nothing.js", "..%5cpage.py", "%00"]
)
async def test_no_other_file_can_be_had(tmp_path: Path, name: str) -> None:
    async with staged(tmp_path) as stage:
        assert (await stage.ask("GET", f"/page/static/{name}")).status == 404


async def test_what_a_reader_types_under_page_leads_to_the_page(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        for path in ("/page", "/page/", "/page/sign-in"):
            answer = await stage.ask("GET", path, allow_redirects=True)
            assert answer.status == 200
            assert 'id="sign-in"' in answer.text


def test_nothing_is_inline_and_nothing_comes_from_outside() -> None:
    for tag, attributes in tags():
        assert tag != "style"
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "script" or (attributes.get("src") or "").startswith("{root}page/static/")
    for path in CODE:
        for url in re.findall(r"https?://[^\s\"'`)]+", path.read_text()):
            assert url.startswith("http://www.w3.org/"), f"{path.name}: {url}"


def test_markup_is_never_made_of_text() -> None:
    for path in CODE:
        if path.suffix == ".js":
            used = re.findall(
                r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|DOMParser", path.read_text()
            )
            assert used == [], path.name


def test_every_control_has_a_name_and_every_reference_its_target() -> None:
    ids = {attributes["id"] for _, attributes in tags() if "id" in attributes}
    text = (FOLDER / "index.html").read_text()
    for tag, attributes in tags():
        for name in ("aria-labelledby", "aria-describedby", "for"):
            assert set((attributes.get(name) or "").split()) <= ids | {"watch-title", "dialog-title"}, attributes
        if tag == "input":
            named = "aria-label" in attributes or f'for="{attributes.get("id")}"' in text
            assert named or attributes.get("aria-hidden") == "true", attributes
    for path in CODE:
        if path.suffix == ".js":
            built = {"watch-message", "watch-title"} | set(re.findall(r'id: "([a-z-]+)"', path.read_text()))
            assert set(re.findall(r'byId\("([a-z-]+)"\)', path.read_text())) <= ids | built, path.name


def test_every_file_is_small() -> None:
    assert sum(path.stat().st_size for path in CODE) < 100_000
    assert {path.name for path in CODE if len(path.read_text().splitlines()) > 400} == set()
