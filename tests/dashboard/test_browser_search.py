"""The search in a real Chromium: pasted ids, the time range, shared links, no match, and changes of many watches."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from bridge.sandbox import Behaviour, Outcome
from bridge.store import watch_scan
from tests.dashboard.browser import Tab, tab_of
from tests.dashboard.harness import running_bridge

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

NEVER = Behaviour(outcome=Outcome.NEVER)


async def shows(tab: Tab, *ids: str) -> None:
    """Waits until the table has exactly these watches."""
    await expect(tab.page.locator("#rows .row .id")).to_have_text([f"{one}" for one in ids])


def was_delivered(watch: Any) -> bool:
    return any(one["state"] == "delivered" for one in watch["deliveries"])


async def test_support_finds_a_watch_and_shares_the_link(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        watch = await bridge.register(context={"order": "A-7712"})
        other = await bridge.register(NEVER, context={"order": "B-1"})
        await tab.sign_in()
        await shows(tab, other["id"], watch["id"])
        await expect(page.locator("#results")).to_be_hidden()
        operator = await bridge.operator()
        settled = await operator.wait_for("watch", lambda one: one["deliveries"], f"?watch={watch['id']}")
        event = settled["deliveries"][0]["id"]
        for text in ("a-7712", event, event[10:], watch["task_id"][6:20], f' "{watch["id"]}" '):
            await page.fill("#q", text)
            await shows(tab, watch["id"])
            await expect(page.locator("#result-count")).to_have_text("1 watch matches.")
        await page.fill("#q", watch["callback_url"])
        await shows(tab, other["id"], watch["id"])
        await page.select_option("select[name=state]", "active")
        await shows(tab, other["id"])
        link = page.url
        async with tab_of(browser, bridge) as second:
            await second.sign_in()
            await second.page.goto(link)
            await second.page.reload()
            await shows(second, other["id"])
            await expect(second.page.locator("#q")).to_have_value(watch["callback_url"])
            await expect(second.page.locator("select[name=state]")).to_have_value("active")
        await page.locator("#clear").click()
        await shows(tab, other["id"], watch["id"])


async def test_a_time_range_is_set_by_its_choices_and_by_a_link(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        watch = (await bridge.register(NEVER))["id"]
        await tab.sign_in()
        await page.select_option("#period", "3600")
        await expect(page.locator("#result-count")).to_have_text("1 watch matches.")
        await expect(page).to_have_url(re.compile(r"created_after=20\d\d-\d\d-\d\dT"))
        await page.select_option("#period", "range")
        await page.fill("#from", "2031-01-01T00:00:00")
        await page.locator("#from").blur()
        await expect(page.locator("#empty")).to_contain_text("No watch matches these filters")
        await expect(page.locator("#empty")).to_contain_text("The times are UTC.")
        await page.fill("#from", "2021-01-01T00:00:00")
        await page.fill("#to", "2099-12-31T12:30:00")
        await page.locator("#to").blur()
        await expect(page).to_have_url(re.compile("created_before=2099-12-31T12%3A30%3A00Z"))
        await shows(tab, watch)
        await page.reload()
        await expect(page.locator("#to")).to_have_value(re.compile("2099-12-31T12:30"))
        await expect(page.locator("#period")).to_have_value("range")
        await page.select_option("#period", "")
        await expect(page.locator("#results")).to_be_hidden()
        await expect(page).not_to_have_url(re.compile("created"))


async def test_nothing_found_says_what_to_try(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        old = (await bridge.register(NEVER, context={"order": "A-1"}))["id"]
        for number in range(2, 5):
            await bridge.register(NEVER, context={"order": f"A-{number}"})
        await tab.sign_in()
        await page.fill("#q", "<b>nothing</b>")
        await expect(page.locator("#empty strong")).to_have_text("Nothing matches <b>nothing</b>")
        monkeypatch.setattr(watch_scan, "MOST_SEARCHED", 3)
        await page.select_option("select[name=state]", "active")
        await page.fill("#q", "A-1")
        await expect(page.locator("#empty strong")).to_have_text("Nothing matches A-1")
        await expect(page.locator("#result-count")).to_contain_text("Older watches were not searched.")
        await expect(page.locator("#empty")).to_contain_text("Not searched: the part of a URL after ?")
        await page.locator("#empty").get_by_role("button", name="Search older watches").click()
        await shows(tab, old)
        await page.fill("#q", "nothing")
        await page.get_by_role("button", name="Search without the other filters").click()
        await expect(page.locator("select[name=state]")).to_have_value("")


async def test_all_that_match_are_cancelled_after_they_were_counted(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        for number in range(3):
            await bridge.register(NEVER, context={"order": f"A-{number}"})
        kept = (await bridge.register(NEVER, context={"order": "B-1"}))["id"]
        await tab.sign_in()
        await page.fill("#q", "A-")
        await page.locator("#results").get_by_role("button", name="Cancel…").click()
        dialog = page.get_by_role("dialog", name="Cancel the active watches that match?")
        await expect(dialog.locator("#change-count")).to_have_text("3 active watches will be cancelled.")
        await dialog.get_by_role("button", name="Close").click()
        await page.locator("#results").get_by_role("button", name="Cancel…").click()
        await dialog.get_by_role("button", name="Cancel 3 watches").click()
        await expect(dialog.locator("#change-count")).to_have_text("3 watches are cancelled.")
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await page.fill("#q", "")
        await page.select_option("select[name=state]", "active")
        await shows(tab, kept)


async def test_callbacks_are_sent_again_and_lists_are_downloaded(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await bridge.register_dead(2)
        delivered = await bridge.register()
        operator = await bridge.operator()
        await operator.wait_for("watch", was_delivered, f"?watch={delivered['id']}")
        await tab.sign_in()
        await page.fill("#q", "127.0.0.1")
        results = page.locator("#results")
        for name, lines in (("CSV", 4), ("JSON lines", 3)):
            async with page.expect_download() as download:
                await results.get_by_role("link", name=name).click()
            path = await (await download.value).path()
            assert len(path.read_text().splitlines()) == lines
        await results.get_by_role("button", name="Send again…").click()
        dialog = page.get_by_role("dialog")
        await expect(dialog.locator("#change-count")).to_have_text("2 callbacks will be sent again.")
        await dialog.get_by_label("Also send delivered callbacks again").check()
        await expect(dialog.locator("#change-count")).to_have_text("3 callbacks will be sent again.")
        bridge.receiver.statuses[410] = 200
        await dialog.get_by_role("button", name="Send 3 again").click()
        await expect(dialog.locator("#change-count")).to_contain_text("3 callbacks are due now.")


@pytest.mark.parametrize("width", [360, 1_920])
async def test_the_filters_and_results_fit_the_screen(browser: Browser, tmp_path: Path, width: int) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge, width, 900) as tab:
        await bridge.register(NEVER, context={"order": "x" * 300})
        await tab.sign_in()
        await tab.page.select_option("#period", "range")
        for text, count in (("x" * 300, "1 watch matches."), ("y" * 300, "No watch matches.")):
            await tab.page.fill("#q", text)
            await expect(tab.page.locator("#result-count")).to_have_text(count)
            assert await tab.overflow() <= 0
