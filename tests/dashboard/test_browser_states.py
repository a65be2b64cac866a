"""What the page shows when the bridge does not answer, has no watch, no operator token, or many problems."""

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from bridge.sandbox import Behaviour, Outcome
from bridge.web.dashboard.alert import MAX_KEYS
from tests.dashboard.browser import Tab, tab_of
from tests.dashboard.harness import Bridge, running_bridge
from tests.ports import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]


# --- a bridge that does not answer --------------------------------------------------------------------------------


async def test_a_bridge_that_has_ended_is_the_headline_and_its_data_are_dimmed(
    browser: Browser, tmp_path: Path
) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await bridge.register(Behaviour(outcome=Outcome.NEVER))
        await tab.sign_in()
        await expect(page.locator("#rows .row")).to_have_count(1)
        await bridge.runtime.stop()
        headline = page.get_by_role("heading", level=1)
        await expect(headline).to_have_text(re.compile(r"^The bridge has not answered since \d\d:\d\d:\d\d$"))
        await expect(page).to_have_title("No answer · amux bridge")
        await expect(page.locator("#announcement")).to_contain_text("The bridge has not answered since")
        await expect(page.locator("#rows .row")).to_have_count(1)  # the page keeps the last data
        for part in (".figures", ".columns", ".alert-box"):
            await expect(page.locator(part).first).to_have_css("opacity", "0.62")
        tab.faults = [fault for fault in tab.faults if "ERR_" not in fault]


async def test_the_page_is_fresh_again_when_the_bridge_answers_again(browser: Browser, tmp_path: Path) -> None:
    port = free_port()
    async with running_bridge(tmp_path, port=str(port)) as bridge, tab_of(browser, bridge) as tab:
        await tab.sign_in()
        await expect(tab.page.get_by_role("heading", name="No problems")).to_be_visible()
        await bridge.runtime.stop()
        await expect(tab.page.locator("#page")).to_have_attribute("data-stale", "")
        async with running_bridge(tmp_path, port=str(port)):
            await expect(tab.page.get_by_role("heading", name="No problems")).to_be_visible()
            await expect(tab.page.locator("#page")).not_to_have_attribute("data-stale", "")
            await expect(tab.page.locator("#connection")).to_have_attribute("data-state", "on")
        tab.faults = [fault for fault in tab.faults if "ERR_" not in fault]


async def test_a_silent_stream_counts_as_no_answer(browser: Browser, tmp_path: Path) -> None:
    """No data arrive, as when the process is suspended or a proxy buffers all of them."""
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        await tab.page.clock.install()
        silent = {"status": 200, "content_type": "text/event-stream", "body": "retry: 600000\n\n"}
        await tab.sign_in()
        await tab.page.route("**/page/live*", lambda route: route.fulfill(**silent))
        await tab.page.select_option("select[name=state]", "settled")  # opens a new stream
        await tab.page.clock.fast_forward(30_000)
        await expect(tab.page.locator("#alert-summary")).to_contain_text("The bridge has not answered since")


# --- alerts -------------------------------------------------------------------------------------------------------


async def top_of_table(page: Page) -> float:
    top: float = await page.evaluate("document.getElementById('watches').getBoundingClientRect().top")
    return top


async def fail_receivers(bridge: Bridge, tab: Tab, count: int) -> None:
    """Registers watches at `count` receivers that refuse connections, and waits until each receiver has an alert."""
    before = await tab.page.locator(".alert").count()
    for _ in range(count):
        await bridge.register(callback_url=f"http://127.0.0.1:{free_port()}/hook")
    await expect(tab.page.locator(".alert")).to_have_count(before + count)


@pytest.mark.parametrize("width", [360, 1440])
async def test_alerts_are_rows_of_one_line_and_the_table_does_not_move_when_they_change(
    browser: Browser, tmp_path: Path, width: int
) -> None:
    async with (
        running_bridge(tmp_path, delivery_retry_delays_seconds="300") as bridge,
        tab_of(browser, bridge, width) as tab,
    ):
        page = tab.page
        await tab.sign_in()
        await expect(page.locator("#no-alerts")).to_be_visible()
        top = await top_of_table(page)
        await fail_receivers(bridge, tab, 6)
        assert await top_of_table(page) == top
        await expect(page.get_by_role("heading", name="6 problems need attention")).to_be_visible()
        await expect(page.locator(".alert-group h2")).to_have_text(["Receivers"])
        heights = await page.locator(".alert").evaluate_all("(rows) => rows.map((row) => row.offsetHeight)")
        assert max(heights) < 40, heights
        size = "(node) => parseFloat(getComputedStyle(node).fontSize)"
        title, text = [await page.locator(part).first.evaluate(size) for part in (".alert .title", ".explanation")]
        assert title > text


async def test_an_alert_opens_by_keyboard_and_stays_open_while_it_changes(browser: Browser, tmp_path: Path) -> None:
    async with (
        running_bridge(tmp_path, delivery_retry_delays_seconds="300") as bridge,
        tab_of(browser, bridge) as tab,
    ):
        page = tab.page
        await tab.sign_in()
        await fail_receivers(bridge, tab, 1)
        alert = page.locator(".alert")
        await expect(alert.locator(".next-step")).to_be_hidden()
        await alert.locator("summary").focus()
        await page.keyboard.press("Enter")
        await expect(alert.locator(".next-step")).to_contain_text("Retries continue automatically")
        await expect(page.locator("#alert-box[data-open]")).to_be_visible()  # the box grows after the row has opened
        top = await top_of_table(page)
        await fail_receivers(bridge, tab, 4)
        await expect(page.locator(".alert details[open] .explanation")).to_contain_text("1 callback is pending")
        await tab.expect_focus("active.localName === 'summary'")
        assert await top_of_table(page) == top
        await page.keyboard.press("Enter")
        await expect(page.locator(".alert details[open]")).to_have_count(0)


# --- empty states -------------------------------------------------------------------------------------------------


async def test_without_an_operator_token_the_page_says_so_and_how_to_set_one(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path, operator_tokens="") as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await page.goto(bridge.url)
        await expect(page.get_by_role("heading", name="No operator token is configured")).to_be_visible()
        await expect(page.locator("#no-operators")).to_contain_text("BRIDGE_OPERATOR_TOKENS=ops:TOKEN")
        await expect(page.locator("#token")).to_be_hidden()


async def test_without_a_watch_the_page_has_the_first_command(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await tab.allow_clipboard()
        await tab.sign_in()
        await expect(page.locator("#empty")).to_contain_text("No watch yet")
        command = await page.locator("#empty pre").text_content() or ""
        assert command.startswith(f"curl -s {bridge.url}/watch -H 'Content-Type: application/json'")
        assert "Authorization: Bearer TOKEN" in command
        await page.locator("#empty button").click()
        assert await tab.clipboard(page.locator("#empty button")) == command
        await page.select_option("select[name=state]", "settled")
        await expect(page.locator("#empty")).to_contain_text("No watch matches these filters")
        await page.select_option("select[name=state]", "")
        await bridge.register(Behaviour(outcome=Outcome.NEVER))
        await expect(page.locator("#rows .row")).to_have_count(1)
        await expect(page.locator("#empty")).to_be_hidden()


async def test_of_many_amux_keys_a_hundred_are_listed_and_the_others_are_counted(
    browser: Browser, tmp_path: Path
) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        for number in range(MAX_KEYS + 2):
            await bridge.register(Behaviour(outcome=Outcome.NEVER), api_key=f"sk-of-app-{number}")
        await tab.sign_in()
        keys = tab.page.locator("#keys > li")
        await expect(keys).to_have_count(MAX_KEYS + 1)
        await expect(keys.first).to_contain_text("AMUX_API_KEY")
        await expect(keys.last).to_have_text("3 more keys of apps")


async def test_the_charts_of_an_idle_bridge_say_idle(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        await tab.sign_in()
        await expect(tab.page.locator(".chart .value")).to_have_text(["idle"] * 3)
        await expect(tab.page.locator(".chart").first).not_to_contain_text("max.")


async def test_a_long_task_id_does_not_make_a_tall_row(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        long_id = "long_" + "t" * 180 + "_end_1"
        bridge.amux.create_task(Behaviour(outcome=Outcome.NEVER), long_id)
        watches = [await bridge.register(Behaviour(outcome=Outcome.NEVER)), await bridge.register(task_id=long_id)]
        await tab.sign_in()
        rows = [tab.page.locator("#rows .row", has_text=watch["id"]) for watch in watches]
        for row in rows:
            await expect(row.locator(".state")).to_contain_text("running")
        for width in (360, 768, 1440, 1920):
            await tab.page.set_viewport_size({"width": width, "height": 900})
            short, tall = [await row.evaluate("(row) => row.offsetHeight") for row in rows]
            assert abs(tall - short) <= 1, width
        link = tab.page.get_by_title(long_id)
        await expect(link).to_have_text(re.compile("^long_t+…t+_end_1$"))
