"""One watch in the drawer: its payload, its attempts, its times, pings and links."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from aiohttp import web
from playwright.async_api import Browser, expect
from standardwebhooks.webhooks import Webhook

from bridge.sandbox import Behaviour, Outcome
from tests.dashboard.browser import tab_of
from tests.dashboard.harness import running_bridge
from tests.programs import program

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]

SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


async def test_the_curl_command_of_the_payload_sends_a_valid_callback(browser: Browser, tmp_path: Path) -> None:
    program("curl", "curl")
    got: list[tuple[bytes, dict[str, str]]] = []

    async def keep(request: web.Request) -> web.Response:
        got.append((await request.read(), dict(request.headers)))
        return web.Response()

    app = web.Application()
    app.router.add_post("/local", keep)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    local = f"http://127.0.0.1:{runner.addresses[0][1]}/local"
    async with running_bridge(tmp_path, signing_secrets=SECRET) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await tab.allow_clipboard()
        watch = await bridge.register(context={"quote": 'it\'s "5.0" \\ ünï', "n": 5.0}, headers={"X-Auth": "hidden"})
        await tab.sign_in()
        await tab.open(watch["id"])
        await page.get_by_role("button", name="Payload and curl…").press("Enter")
        dialog = page.get_by_role("dialog", name="Payload as sent")
        await expect(dialog).to_contain_text("webhook-signature: v1,")
        await expect(dialog).to_contain_text("X-Auth: ********")
        await expect(dialog).to_contain_text('"n": 5.0')
        button = dialog.get_by_role("button", name="Copy: the payload")
        await button.click()
        payload = await tab.clipboard(button)
        assert json.loads(payload)["data"]["watch_id"] == watch["id"]
        await dialog.get_by_label("Address").fill(local)
        button = dialog.get_by_role("button", name="Copy curl")
        await button.click()
        command = await tab.clipboard(button)
        sent = await asyncio.create_subprocess_exec("sh", "-c", command)
        assert await sent.wait() == 0
        [(body, headers)] = got
        assert body.decode() == payload
        Webhook(SECRET).verify(body, headers)
        await page.keyboard.press("Escape")
        await expect(dialog).to_be_hidden()
        await tab.expect_focus("active.textContent === 'Payload and curl…'")
    await runner.cleanup()


async def test_each_event_of_a_watch_can_be_chosen(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        watch = await bridge.register(Behaviour(queue_seconds=3600), events=["video.queued", "video.completed"])
        await tab.sign_in()
        await tab.open(watch["id"])
        await expect(tab.page.locator("#watch-deliveries li")).to_have_count(1)
        bridge.amux.change(watch["task_id"], Behaviour(0, 0))
        await expect(tab.page.locator("#watch-deliveries li")).to_have_count(2)
        await tab.page.locator("#watch-deliveries li", has_text="video.queued").get_by_text("Payload…").click()
        dialog = tab.page.get_by_role("dialog", name="Payload as sent")
        await expect(dialog.get_by_label("Event")).to_have_value(re.compile("^evt_.*q$"))
        await dialog.get_by_label("Event").select_option("video.completed")
        await expect(dialog.locator("pre").nth(1)).to_contain_text('"type": "video.completed"')


async def test_ids_and_the_url_are_copied(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await tab.allow_clipboard()
        watch = await bridge.register()
        await tab.sign_in()
        await tab.open(watch["id"])
        await expect(page.locator("#watch-deliveries li")).to_have_count(1)
        event_id = await page.locator("#watch-deliveries .id").text_content() or ""
        for name, text in (
            ("the task id", watch["task_id"]),
            ("the watch id", watch["id"]),
            ("the event id", event_id.split()[0]),
            ("callback", f"{bridge.receiver.url}/answer/200"),
        ):
            button = page.get_by_role("button", name=f"Copy: {name}")
            await button.press("Enter")
            assert await tab.clipboard(button) == text


async def test_without_a_clipboard_the_text_is_copied_all_the_same(browser: Browser, tmp_path: Path) -> None:
    """A page over plain http from another machine has no access to the browser's clipboard."""
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        await tab.allow_clipboard()
        await page.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', { value: undefined })")
        watch = await bridge.register()
        await tab.sign_in()
        await tab.open(watch["id"])
        await page.get_by_role("button", name="Copy: the watch id").click()
        await expect(page.get_by_role("button", name="Copy: the watch id")).to_contain_text("Copied")
        await page.locator("#q").click()
        await page.keyboard.press("Control+V")
        await expect(page.locator("#q")).to_have_value(watch["id"])


async def test_attempts_that_repeat_are_one_entry_and_a_change_is_shown(browser: Browser, tmp_path: Path) -> None:
    delays = "0.05,0.05,0.05,300"
    async with running_bridge(tmp_path, delivery_retry_delays_seconds=delays) as bridge, tab_of(browser, bridge) as tab:
        page, receiver = tab.page, bridge.receiver
        receiver.bodies[500] = '{"error":"database down"}'
        watch = await bridge.register(status=500)
        await tab.sign_in()
        await tab.open(watch["id"])
        await expect(page.locator("#watch-deliveries")).to_contain_text("4 attempts")
        run = page.locator("#timeline > li[data-kind=attempt]")
        await expect(run).to_have_count(1)
        await expect(run.locator(".title")).to_contain_text("Attempts 1 to 4 of the completed callback: answered 500")
        await expect(run.locator(".repeats")).to_be_hidden()
        await run.locator("summary").press("Enter")
        await expect(run.locator(".repeats li")).to_have_count(3)
        await expect(run.locator(".repeats li").first).to_contain_text("the same answer")
        receiver.statuses[500] = 503
        receiver.bodies[503] = '{"error":"maintenance"}'
        await page.get_by_role("button", name="Send now").click()
        last = page.locator("#timeline > li[data-kind=attempt]").nth(1)
        await expect(last.locator("del").first).to_have_text("answered 500")
        await expect(last.locator("ins").first).to_have_text("answered 503")
        await expect(last.locator("ins").nth(1)).to_contain_text("maintenance")
        await expect(run.locator(".repeats").first).to_be_visible()  # the list stays open


async def test_the_stages_show_where_the_time_went(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        watch = await bridge.register(Behaviour(queue_seconds=3600))
        await tab.sign_in()
        await tab.open(watch["id"])
        await expect(tab.page.locator("#timeline")).to_contain_text("amux: task queued")
        bridge.amux.change(watch["task_id"], Behaviour(0, 0))
        await expect(tab.page.locator("#watch-deliveries")).to_contain_text("delivered")
        stages = tab.page.locator("#timing > div")
        names = ["Registered", "First poll answered", "Ended, by amux's clock", "End seen by a poll", "Settled"]
        await expect(stages.locator("dt")).to_have_text(["Submitted to amux", *names, "First attempt", "Delivered"])
        for name in (*names, "Delivered"):
            await expect(stages.filter(has_text=name).first.locator("dd")).to_contain_text(
                re.compile(r"\d\d:\d\d:\d\d")
            )


async def test_the_receiver_is_pinged_and_its_other_watches_are_one_link_away(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, tab_of(browser, bridge) as tab:
        page = tab.page
        watch = await bridge.register(Behaviour(outcome=Outcome.NEVER))
        await bridge.register(Behaviour(outcome=Outcome.NEVER), callback_url="http://127.0.0.1:9/elsewhere")
        await tab.sign_in()
        await tab.open(watch["id"])
        await page.get_by_role("button", name="Ping the receiver").press("Enter")
        await expect(page.locator("#watch-message")).to_contain_text("Ping: the receiver answered 200 in")
        bridge.receiver.statuses[200] = 500
        await page.get_by_role("button", name="Ping the receiver").press("Enter")
        await expect(page.locator("#watch-message")).to_contain_text("the receiver answered 500.")
        host = bridge.receiver.url.removeprefix("http://")
        await page.locator("#watch-details").get_by_role("link", name="Its watches").click()
        await expect(page.locator("#rows .row")).to_have_count(1)
        await expect(page.locator("#host-filter")).to_contain_text(host)
