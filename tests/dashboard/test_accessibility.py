"""axe-core on every view of the dashboard, in both themes, wide and narrow; and nothing is wider than the window."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from bridge.sandbox import Behaviour, Outcome
from tests.dashboard.browser import Tab, tab_of
from tests.dashboard.harness import Bridge, running_bridge
from tests.ports import free_port
from tests.programs import npm_install

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

AXE_RUN = """async () => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
}"""


@pytest.fixture(scope="module")
def axe_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("axe")
    npm_install(folder, "axe-core@4")
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


class Views:
    """Checks views one after the other, and collects the faults of each view."""

    def __init__(self, tab: Tab, axe_source: str) -> None:
        self.tab = tab
        self.faults: list[str] = []
        self.seen: list[str] = []
        self._axe_source = axe_source

    async def check(self, name: str) -> None:
        """Runs axe-core on the current view in both themes, and looks for content that is wider than the window."""
        page = self.tab.page
        if not await page.evaluate("'axe' in window"):
            await page.evaluate(self._axe_source)
        self.seen.append(name)
        for theme in ("light", "dark"):
            await page.emulate_media(color_scheme="dark" if theme == "dark" else "light")
            self.faults += [f"{name}, {theme}: {fault}" for fault in await page.evaluate(AXE_RUN)]
        if wider := await self.tab.overflow():
            self.faults.append(f"{name}: {wider} px wider than the window")


async def fill(bridge: Bridge) -> str:
    """Registers watches until the page has every part. Returns the id of the watch with the longest timeline."""
    bridge.receiver.bodies[500] = f'{{"error": "database down", "trace": "{"x" * 3000}"}}'
    bridge.receiver.bodies[410] = "gone"
    await bridge.register(Behaviour(outcome=Outcome.NEVER))
    await bridge.register(Behaviour(0, 0, Outcome.FAILED, error_message="content policy", error_code="policy"))
    await bridge.register(status=410)
    await bridge.register(callback_url=f"http://127.0.0.1:{free_port()}/hook")
    long_id = "t" * 191
    bridge.amux.create_task(Behaviour(0, 0), long_id)
    watch = await bridge.register(
        task_id=long_id,
        status=500,
        callback_url=f"{bridge.receiver.url}/answer/500?{'y' * 900}",
        context={"z": "z" * 2000},
        headers={"X-Auth": "hidden"},
    )
    return str(watch["id"])


@pytest.mark.parametrize("width", [360, 1440])
async def test_axe_finds_nothing_on_any_view(  # noqa: PLR0915  one bridge for all views
    browser: Browser, tmp_path: Path, axe_source: str, width: int
) -> None:
    delays = "0.05,0.05,300"
    async with (
        running_bridge(tmp_path, delivery_retry_delays_seconds=delays) as bridge,
        tab_of(browser, bridge, width) as tab,
    ):
        page, views = tab.page, Views(tab, axe_source)
        await page.goto(bridge.url)
        await expect(page.locator("#token")).to_be_visible()
        await views.check("sign-in")
        await page.fill("#token", "wrong")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("alert")).to_have_text("This token is not valid.")
        await views.check("wrong token")
        await tab.sign_in()
        await expect(page.locator("#empty")).to_contain_text("No watch yet")
        await views.check("no watch yet")
        watch = await fill(bridge)
        await expect(page.locator("#rows .row")).to_have_count(5)
        await expect(page.locator("#receivers .receiver")).to_have_count(2)
        await expect(page.locator(".alert")).to_have_count(2)
        await views.check("watches")
        for summary in await page.locator(".alert summary").all():
            await summary.press("Enter")
        await views.check("open alerts")
        await page.get_by_role("button", name="Pause…").first.press("Enter")
        await views.check("pause dialog")
        await page.keyboard.press("Escape")
        await page.locator("#resend-all").press("Enter")
        await expect(page.locator("#change-count")).to_contain_text("1 dead callback")
        await views.check("resend dialog")
        await page.keyboard.press("Escape")
        await tab.open(watch)
        await expect(page.locator("#watch-deliveries")).to_contain_text("3 attempts")
        await page.locator("#timeline summary").first.press("Enter")
        await views.check("open watch")
        if overflow := await tab.overflow("#watch"):
            views.faults.append(f"the open watch is {overflow} px too wide")
        await page.get_by_role("button", name="Payload and curl…").press("Enter")
        await expect(page.locator("#local-address")).to_be_visible()
        await views.check("payload dialog")
        if overflow := await tab.overflow("#dialog"):
            views.faults.append(f"the payload is {overflow} px too wide")
        await page.keyboard.press("Escape")
        await page.keyboard.press("Escape")
        await page.fill("#q", "no-such-thing")
        await expect(page.locator("#empty")).to_be_visible()
        await views.check("no match")
        await page.fill("#q", "")
        await page.select_option("#period", "range")
        await page.select_option("select[name=state]", "active")
        results = page.locator("#result-actions")
        await expect(results.get_by_role("button", name="Cancel…")).to_be_visible()
        await views.check("matches")
        for name in ("Cancel…", "Send again…"):
            await results.get_by_role("button", name=name).press("Enter")
            await expect(page.locator("#change-count")).not_to_contain_text("Counting")
            await views.check(f"dialog: {name}")
            await page.keyboard.press("Escape")
        await page.locator("#rows .row[data-state=active] a").first.click()
        await page.get_by_role("button", name="Cancel the watch…").press("Enter")
        await views.check("cancel dialog")
        await page.keyboard.press("Escape")
        await bridge.runtime.stop()
        await expect(page.locator("#alert-summary")).to_contain_text("has not answered since")
        await views.check("no answer, a watch open")
        await page.keyboard.press("Escape")
        await views.check("no answer")
        tab.faults = [fault for fault in tab.faults if "ERR_" not in fault and "401" not in fault]
    assert not views.faults, "\n".join(views.faults)
    assert len(views.seen) == 16


async def test_axe_finds_nothing_without_an_operator_token(browser: Browser, tmp_path: Path, axe_source: str) -> None:
    async with running_bridge(tmp_path, operator_tokens="") as bridge, tab_of(browser, bridge, 360) as tab:
        await tab.page.goto(bridge.url)
        await expect(tab.page.locator("#no-operators")).to_be_visible()
        views = Views(tab, axe_source)
        await views.check("no operator token")
    assert not views.faults, "\n".join(views.faults)


@pytest.mark.parametrize("width", [360, 1440])
async def test_axe_finds_nothing_in_the_search_and_on_the_page_of_the_api(
    browser: Browser, tmp_path: Path, axe_source: str, width: int
) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge, width) as tab:
        page, views = tab.page, Views(tab, axe_source)
        await fill(bridge)
        await tab.sign_in()
        await page.select_option("#period", "range")
        await page.fill("#from", "2021-01-01T00:00:00")
        await page.fill("#q", "127.0.0.1")
        await expect(page.locator("#result-count")).to_contain_text("match")
        await views.check("results")
        for name in ("Cancel…", "Send again…"):
            await page.locator("#results").get_by_role("button", name=name).press("Enter")
            await expect(page.locator("#change-count")).not_to_have_text("Counting…")
            await views.check(name)
            await page.keyboard.press("Escape")
        await page.goto(f"{bridge.url}/docs")
        await views.check("docs")
    assert not views.faults, "\n".join(views.faults)
