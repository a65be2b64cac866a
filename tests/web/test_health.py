"""`/healthz`, `/readyz` and `/metrics`."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bridge.core.errors import StoreUnavailable
from bridge.core.health import HealthCode, HealthReason
from tests.web.harness import OTHER, Bridge, HealthParts, health_of, running_bridge


async def ready(bridge: Bridge) -> tuple[int, str, dict[str, str], list[str]]:
    answer = await bridge.get("/readyz", headers={"Authorization": ""})
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json
    return answer.status, body["status"], body["checks"], body["reasons"]


async def test_a_healthy_bridge_is_alive_and_ready(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        assert (await bridge.get("/healthz")).json == {"status": "alive"}
        checks = {"store": "ok", "scheduler": "ok", "drain": "ok", "amux": "ok"}
        assert await ready(bridge) == (200, "ready", checks, [])


async def test_a_refused_key_is_degraded_with_status_200(tmp_path: Path) -> None:
    async with running_bridge(
        tmp_path, degraded=[HealthReason(HealthCode.KEY_REFUSED, "amux refuses the configured key")]
    ) as bridge:
        status, verdict, checks, reasons = await ready(bridge)
        assert (status, verdict, checks["amux"]) == (200, "degraded", "degraded")
        assert reasons == ["amux refuses the configured key"]


async def test_every_failing_check_has_a_reason(tmp_path: Path) -> None:
    async with running_bridge(
        tmp_path, tick_age=12.34, degraded=[HealthReason(HealthCode.NOT_AMUX, "wrong base URL")]
    ) as bridge:
        bridge.context.health.draining = True
        await bridge.store._writer.close()
        status, verdict, checks, reasons = await ready(bridge)
        assert (status, verdict) == (503, "unready")
        assert checks == {"store": "failing", "scheduler": "failing", "drain": "failing", "amux": "degraded"}
        assert "not writable" in reasons[0]
        assert "12.3 s" in reasons[1]
        assert "stopping" in reasons[2]
        assert reasons[3] == "wrong base URL"
        assert (await bridge.get("/healthz")).status == 200


async def test_a_shortage_of_the_bridge_itself_is_a_reason_while_it_lasts(tmp_path: Path) -> None:
    parts = HealthParts(lacks="too many open files")
    async with running_bridge(tmp_path) as bridge:
        health = health_of(bridge.store, parts)
        found = await health.readiness()
        assert (found.status, found.checks["resources"]) == ("unready", "failing")
        assert [(one.code, one.message) for one in found.reasons] == [
            (HealthCode.OUT_OF_RESOURCES, "too many open files")
        ]
        parts.lacks = None
        assert (await health.readiness()).status == "ready"


async def test_the_store_is_probed_at_most_once_a_second(tmp_path: Path) -> None:
    now = 100.0
    async with running_bridge(tmp_path) as bridge:
        health = health_of(bridge.store, HealthParts(), clock=lambda: now)
        assert (await health.readiness()).status == "ready"
        await bridge.store._writer.close()
        now = 100.9
        assert (await health.readiness()).status == "ready"
        now = 101.0
        assert (await health.readiness()).status == "unready"
        with pytest.raises(StoreUnavailable):
            await bridge.store.probe()


async def test_metrics_are_prometheus_text(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        await bridge.watch()
        await bridge.watch(OTHER)
        answer = await bridge.get("/metrics", headers={"Authorization": ""})
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        assert families["amux_bridge_registered"].samples[0].value == 2
