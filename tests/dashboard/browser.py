"""A real Chromium, and a tab that notices what it should not do."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.dashboard.harness import OPERATOR_TOKEN, SAFETY_SECONDS, Stage

FLAGS = (
    *("--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e"
WAIT = SAFETY_SECONDS * 1000  # milliseconds, for what Playwright waits for
expect.set_options(timeout=WAIT)


def chromium_or_skip() -> str:
    """Where Chromium is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is not None:
        return found
    reason = "there is no Chromium in PATH: install Debian's `chromium`"
    if os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}:
        raise AssertionError(reason)
    pytest.skip(reason)


@pytest_asyncio.fixture(name="browser", scope="module", loop_scope="module")
async def browser_fixture() -> AsyncIterator[Browser]:
    """One for all tests; each has a context, which is a profile, of its own."""
    path = chromium_or_skip()
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=path, args=list(FLAGS), timeout=60_000)
        yield started
        await started.close()


@dataclass
class Tab:
    """A page of a browser, and what it did that it should not."""

    page: Page
    stage: Stage
    faults: list[str] = field(default_factory=list)

    async def sign_in(self) -> None:
        await self.page.goto(self.stage.url)
        await self.page.get_by_label("Operator's token").fill(OPERATOR_TOKEN)
        await self.page.keyboard.press("Enter")
        await expect(self.page.locator("#link")).to_have_attribute("data-state", "on")

    async def open(self, watch_id: str) -> None:
        """Open a watch by its row."""
        await self.page.locator(".row", has_text=watch_id).get_by_role("link").click()
        await expect(self.page.locator("#timeline li").first).to_be_visible()

    async def focused(self) -> str:
        """What has the focus: an id, a name or a text."""
        script = "(() => { const at = document.activeElement; return at.id || at.name || at.textContent; })()"
        found: str = await self.page.evaluate(script)
        return found

    async def too_wide(self, part: str = "html") -> int:
        """By how much a part's content is wider than its place, in pixels."""
        script = "(part) => (({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector(part))"
        found: int = await self.page.evaluate(script, part)
        return found


@asynccontextmanager
async def tab_of(
    browser: Browser, stage: Stage, width: int = 1440, height: int = 900, theme: str = "light"
) -> AsyncIterator[Tab]:
    """A tab; at its end it must have asked nobody else, logged no error and raised no dialog."""
    scheme: Literal["dark", "light"] = "dark" if theme == "dark" else "light"
    context = await browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab = Tab(await context.new_page(), stage)
    tab.page.set_default_timeout(WAIT)
    tab.page.on("pageerror", lambda error: tab.faults.append(f"error: {error}"))
    tab.page.on("dialog", lambda dialog: tab.faults.append(f"dialog: {dialog.message}"))
    tab.page.on("console", lambda said: tab.faults.append(said.text) if said.type in {"error", "warning"} else None)
    tab.page.on("request", lambda asked: None if asked.url.startswith(stage.url) else tab.faults.append(asked.url))
    try:
        yield tab
    finally:
        await context.close()
    assert tab.faults == []
