"""The dashboard by keyboard: each element is reached, shows its focus, and gets the focus back.

Without Chromium (Debian's package `chromium`) the tests are skipped; in CI they fail.
"""

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from bridge.sandbox import Behaviour, Outcome
from tests.dashboard.browser import tab_of
from tests.dashboard.harness import running_bridge

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]


async def test_a_watch_is_opened_and_cancelled_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        ids = [(await bridge.register(Behaviour(outcome=Outcome.NEVER)))["id"] for _ in range(3)]
        await tab.sign_in()
        await expect(page.locator("#rows .row")).to_have_count(3)
        for _ in range(40):  # Tab must reach the first row, so no element before the row may keep the focus
            await page.keyboard.press("Tab")
            if "task_" in await tab.focused():
                break
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await expect(page.locator("#watch-title")).to_be_focused()
        await expect(page.locator("#watch-details")).to_contain_text(ids[1])
        for name in ("Copy: the task id", "Close the watch", "Copy: the watch id"):
            await page.keyboard.press("Tab")
            await tab.expect_focus(f"active.getAttribute('aria-label') === '{name}'")
        await page.keyboard.press("Tab")
        await tab.expect_focus("active.textContent.includes('Cancel the watch')")
        await page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Cancel this watch?")
        await expect(dialog).to_be_visible()
        await page.keyboard.press("Escape")  # closes only the dialog
        await expect(dialog).to_be_hidden()
        await expect(page.locator("#watch")).to_be_visible()
        await tab.expect_focus("active.textContent.includes('Cancel the watch')")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(page.locator("#watch .watch-status strong")).to_have_text("cancelled")
        await expect(dialog).to_be_hidden()
        await expect(page.locator("#watch-title")).to_be_focused()
        await page.keyboard.press("Escape")
        await expect(page.locator("#watch")).to_be_hidden()
        await tab.expect_focus("active.closest('.row')?.textContent.includes('cancelled')")


async def test_a_button_that_changes_behind_its_dialog_gets_the_focus_back(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page, waits = tab.page, Behaviour(queue_seconds=86_400)
        watch = await bridge.register(waits)
        await tab.sign_in()
        await tab.open(watch["id"])
        status = page.locator("#watch .watch-status strong")
        for text, behaviour in [("running", Behaviour(0, outcome=Outcome.NEVER)), ("queued", waits)]:
            await page.get_by_role("button", name="Cancel the watch…").focus()
            await page.keyboard.press("Enter")
            bridge.amux.change(watch["task_id"], behaviour)
            await expect(status).to_contain_text(text)
            await page.keyboard.press("Escape")
            await tab.expect_focus("active.textContent === 'Cancel the watch…' && active.isConnected")


async def test_the_heading_gets_the_focus_if_no_element_opened_the_dialog(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        watch = await bridge.register(Behaviour(outcome=Outcome.NEVER))
        await tab.sign_in()
        await tab.open(watch["id"])
        # As in Safari, where a click on a button does not give it the focus.
        await tab.page.evaluate("document.activeElement.blur()")
        await tab.page.get_by_role("button", name="Cancel the watch…").evaluate("(button) => button.click()")
        await tab.page.keyboard.press("Escape")
        await expect(tab.page.locator("#alert-summary")).to_be_focused(timeout=5_000)


async def test_every_element_that_tab_reaches_has_a_visible_focus(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        await bridge.register_dead()
        await tab.sign_in()
        await expect(tab.page.locator("#rows .row")).to_have_count(1)
        shows = """() => {
            const at = document.activeElement, row = at.closest('.row'), label = at.closest('label');
            return [at, row, label].some((one) => one && getComputedStyle(one).outlineStyle !== 'none');
        }"""
        for _ in range(80):
            await tab.page.keyboard.press("Tab")
            if await tab.page.evaluate("document.activeElement === document.body"):
                break
            assert await tab.page.evaluate(shows), await tab.focused()


async def test_on_a_narrow_screen_tab_stays_in_the_open_watch(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge, 360, 740) as tab:
        watch = await bridge.register(Behaviour(outcome=Outcome.NEVER))
        await tab.sign_in()
        await tab.open(watch["id"])
        for _ in range(8):
            await tab.page.keyboard.press("Tab")
            assert await tab.page.evaluate("document.activeElement.closest('main, header.topbar') === null")
        await tab.page.keyboard.press("Escape")
        await expect(tab.page.locator("main:not([hidden])")).to_have_js_property("inert", False)
