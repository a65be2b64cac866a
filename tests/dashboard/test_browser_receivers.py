"""The table of receivers: figures, links, pausing and resuming."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from bridge.sandbox import Behaviour, Outcome
from tests.dashboard.browser import tab_of
from tests.dashboard.harness import running_bridge
from tests.ports import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]


async def test_a_receiver_has_its_figures_and_links_to_its_watches(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await tab.sign_in()
        await expect(page.locator("#receivers-empty")).to_contain_text("No receiver yet.")
        await bridge.register_dead(3)
        await bridge.register()
        row = page.locator("#receivers .receiver")
        await expect(row).to_have_count(1)
        await expect(row.locator(".health")).to_have_text("healthy")
        await expect(row).to_contain_text("25 %")
        await expect(row).to_contain_text(re.compile(r"\d+ ms"))
        await expect(row.locator(".last")).to_contain_text("200")
        await row.get_by_role("link", name="3 dead: show the watches").press("Enter")
        await expect(page.locator("#rows .row")).to_have_count(3)
        await expect(page.locator("#watches")).to_be_focused()
        await page.locator("#resend-all").click()
        await expect(page.locator("#change-count")).to_contain_text("3 dead callbacks will be sent again")
        await page.keyboard.press("Escape")
        await row.get_by_role("link").first.click()
        await expect(page.locator("#rows .row")).to_have_count(4)


async def test_a_receiver_without_an_answer_is_failing_and_says_why(browser: Browser, tmp_path: Path) -> None:
    delays = "0.05,0.05,300"
    async with running_bridge(tmp_path, delivery_retry_delays_seconds=delays) as bridge, tab_of(browser, bridge) as tab:
        await bridge.register(callback_url=f"http://127.0.0.1:{free_port()}/hook")
        await tab.sign_in()
        row = tab.page.locator("#receivers .receiver")
        await expect(row.locator(".health")).to_have_text("failing, 3 failures in a row")
        await expect(row.locator(".last")).to_contain_text("connection refused")
        await expect(row).to_contain_text("0 %")


async def test_a_receiver_is_paused_and_resumed_by_keyboard(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await bridge.register()
        await tab.sign_in()
        row = page.locator("#receivers .receiver")
        await expect(row).to_contain_text("100 %")  # the first callback has arrived
        await row.get_by_role("button", name="Pause…").press("Enter")
        dialog = page.get_by_role("dialog", name="Pause this receiver?")
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await tab.expect_focus("active.textContent.includes('Pause…')")
        await page.keyboard.press("Enter")
        await page.keyboard.press("Shift+Tab")
        await page.keyboard.press("Enter")
        await expect(row).to_contain_text("Paused by ops")
        await expect(page.locator("#receivers-message")).to_contain_text("is paused.")
        await bridge.register()
        await expect(row.get_by_role("link", name="1 pending: show the watches")).to_be_visible()
        assert len(bridge.receiver.received) == 1
        await expect(page.locator("#rows")).to_contain_text("The receiver is paused.")
        await row.get_by_role("button", name="Resume").press("Enter")
        await expect(page.locator("#receivers-message")).to_contain_text("1 pending callback becomes due")
        await expect(row.get_by_role("button", name="Pause…")).to_be_focused()
        await expect(row).not_to_contain_text("Paused by")
        await expect(row.get_by_role("link", name="pending: show the watches")).to_have_count(0)
        await expect(row).to_contain_text("100 %")
        assert len(bridge.receiver.received) == 2


@pytest.mark.parametrize("width", [360, 1440])
async def test_a_watch_leads_to_its_receiver(browser: Browser, tmp_path: Path, width: int) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge, width) as tab:
        watch = await bridge.register()
        await bridge.register(Behaviour(outcome=Outcome.NEVER))
        await tab.sign_in()
        await tab.open(watch["id"])
        await expect(tab.page.locator("#receivers .receiver")).to_have_count(1)
        await tab.page.get_by_role("button", name="Its figures").press("Enter")
        await expect(tab.page.locator("#receivers a").first).to_be_focused()
        await expect(tab.page.locator("#receivers a").first).to_be_in_viewport()


async def test_a_skip_link_keeps_the_filters(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await tab.sign_in()
        await page.select_option("select[name=state]", "settled")
        await page.get_by_role("link", name="Skip to the receivers").press("Enter")
        await expect(page.locator("#receivers-title")).to_be_focused()
        await expect(page.locator("select[name=state]")).to_have_value("settled")
