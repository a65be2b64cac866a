"""A real Chromium, and a tab that collects errors and requests to other sites."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from tests.dashboard.harness import OPERATOR_TOKEN, Bridge
from tests.waiting import SAFETY_SECONDS

FLAGS = (
    *("--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>\u202e"
LASTING_MESSAGES = """{
  const { setTimeout } = window;
  window.setTimeout = (run, wait, ...more) => setTimeout(run, wait === 2000 ? 1e9 : wait, ...more);
}"""
WAIT_MILLISECONDS = SAFETY_SECONDS * 1000  # the time limit of Playwright
expect.set_options(timeout=WAIT_MILLISECONDS)


def chromium_or_skip() -> str:
    """Returns the path of Chromium. Without Chromium the test is skipped; in CI it fails."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is not None:
        return path
    reason = "there is no Chromium in PATH: install Debian's `chromium`"
    if os.environ.get("CI", "").lower() not in {"", "0", "false", "no"}:
        raise AssertionError(reason)
    pytest.skip(reason)


@pytest_asyncio.fixture(name="browser", scope="module", loop_scope="module")
async def browser_fixture() -> AsyncIterator[Browser]:
    """Yields one browser for all tests of a module. Each test has its own context (profile)."""
    path = chromium_or_skip()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=list(FLAGS), timeout=60_000)
        yield browser
        await browser.close()


@dataclass
class Tab:
    """A page of a browser. `faults` are its errors, its dialogs and its requests to other sites."""

    page: Page
    bridge: Bridge
    faults: list[str] = field(default_factory=list)

    async def sign_in(self) -> None:
        await self.page.goto(self.bridge.url)
        await self.page.get_by_label("Operator token").fill(OPERATOR_TOKEN)
        await self.page.keyboard.press("Enter")
        await expect(self.page.locator("#connection")).to_have_attribute("data-state", "on")

    async def open(self, watch_id: str) -> None:
        """Opens a watch with a click on its row."""
        await self.page.locator(".row", has_text=watch_id).get_by_role("link").click()
        await expect(self.page.locator("#timeline li").first).to_be_visible()

    async def allow_clipboard(self) -> None:
        """Lets the page use the clipboard. A button that has copied a text shows its message without a time limit."""
        await self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await self.page.add_init_script(LASTING_MESSAGES)

    async def clipboard(self, button: Locator) -> str:
        """Waits until a button has copied a text. Returns the text."""
        await expect(button).to_contain_text("Copied")
        text: str = await self.page.evaluate("navigator.clipboard.readText()")
        return text

    async def expect_focus(self, script: str) -> None:
        """Waits until a script returns true. The script knows the focused element as `active`."""
        await self.page.wait_for_function(f"(({{ activeElement: active }}) => {script})(document)")

    async def focused(self) -> str:
        """Returns the id, the name or the text of the focused element."""
        script = "(({ id, name, textContent }) => id || name || textContent)(document.activeElement)"
        found: str = await self.page.evaluate(script)
        return found

    async def overflow(self, part: str = "html") -> int:
        """Returns how much wider a part's content is than the part itself, in pixels."""
        script = "(part) => (({ scrollWidth, clientWidth }) => scrollWidth - clientWidth)(document.querySelector(part))"
        found: int = await self.page.evaluate(script, part)
        return found


@asynccontextmanager
async def tab_of(
    browser: Browser, bridge: Bridge, width: int = 1440, height: int = 900, theme: str = "light"
) -> AsyncIterator[Tab]:
    """Yields a tab. The tab must have no faults at the end."""
    scheme: Literal["dark", "light"] = "dark" if theme == "dark" else "light"
    context = await browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab = Tab(await context.new_page(), bridge)
    tab.page.set_default_timeout(WAIT_MILLISECONDS)
    tab.page.on("pageerror", lambda error: tab.faults.append(f"error: {error}"))
    tab.page.on("dialog", lambda dialog: tab.faults.append(f"dialog: {dialog.message}"))
    tab.page.on("console", lambda entry: tab.faults.append(entry.text) if entry.type in {"error", "warning"} else None)
    tab.page.on("request", lambda sent: None if sent.url.startswith(bridge.url) else tab.faults.append(sent.url))
    try:
        yield tab
    finally:
        await context.close()
    assert tab.faults == [], tab.faults
