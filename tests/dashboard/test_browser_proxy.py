"""The dashboard in a real Chromium, behind a proxy that removes a path and changes the Host."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from bridge.sandbox import Behaviour, Outcome
from tests.dashboard.harness import OPERATOR_TOKEN, running_bridge
from tests.dashboard.proxy import proxied

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.long]


async def test_behind_a_proxy_with_a_path_and_a_foreign_host_everything_works(browser: Browser, tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge, proxied(bridge.url) as base:
        watch = await bridge.register(Behaviour(queue_seconds=0, outcome=Outcome.NEVER))
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(str(base))
        await page.get_by_label("Operator token").fill(OPERATOR_TOKEN)
        await page.keyboard.press("Enter")
        await expect(page.locator("#connection")).to_have_attribute("data-state", "on")
        await page.locator(".row", has_text=watch["id"]).get_by_role("link").click()
        await page.get_by_role("button", name="Cancel the watch").click()
        await (
            page.get_by_role("dialog", name="Cancel this watch?").get_by_role("button", name="Cancel the watch").click()
        )
        await expect(page.locator("#watch .watch-status strong")).to_have_text("cancelled")
        [cookie] = await context.cookies()
        assert cookie["path"] == "/tools/bridge/page"
        await context.close()
