"""One attempt: what is sent, what an answer means, what is kept of it."""

import json
import logging
import socket
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import standardwebhooks
import svix
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bridge.core.model import DeliveryState, EventType
from bridge.core.schedule import RetryPolicy
from bridge.core.signing import PUBLIC_PREFIX, SigningKey, new_secret
from bridge.core.targets import TargetPolicy
from bridge.delivery.attempt import body_text
from tests.delivery.harness import SECRET, Receiver, Stage, hang, ok, stages, status


@pytest.fixture
async def stage(sqlite_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with stages(tmp_path) as made:
        yield made


def verified(receiver: Receiver, secret: str, call: int = -1) -> object:
    got = receiver.calls[call]
    svix.Webhook(secret).verify(got.body, got.headers)
    return standardwebhooks.Webhook(secret).verify(got.body, got.headers)


async def test_a_2xx_is_delivered_and_every_library_verifies_it(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed)
    assert (view.state, view.attempts, view.last_error) == (DeliveryState.DELIVERED, 1, None)
    assert view.delivered_at is not None
    assert verified(receiver, SECRET.text) == json.loads(owed.payload)
    assert receiver.calls[0].body == owed.payload
    assert receiver.calls[0].headers["content-type"] == "application/json"
    [attempt] = (await stage.store.delivery(owed.id, "app"))[1]
    assert (attempt.status_code, attempt.error, attempt.body) == (200, None, "ok")


async def test_a_watchs_own_secret_and_headers_are_used_and_the_key_signs_besides(stage: Stage) -> None:
    own, key = new_secret(b"o" * 24), SigningKey(b"k" * 32)
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer(signing_key=key)
    [owed] = await stage.owed(receiver.url, secret=own.text, headers={"Authorization": "Bearer abc123def"})
    deliverer.hand_over([owed])
    await stage.recorded(owed)
    verified(receiver, own.text)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verified(receiver, SECRET.text)
    [call] = receiver.calls
    assert call.headers["authorization"] == "Bearer abc123def"
    v1, v1a = call.headers["webhook-signature"].split(" ")
    assert (v1[:3], v1a[:4]) == ("v1,", "v1a,")
    public = Ed25519PublicKey.from_public_bytes(b64decode(key.public_text.removeprefix(PUBLIC_PREFIX)))
    public.verify(b64decode(v1a[4:]), f"{call.id}.{call.headers['webhook-timestamp']}.".encode() + call.body)


async def test_secrets_that_change_in_place_count_from_the_next_attempt(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    secrets = [SECRET]
    deliverer = await stage.deliverer(secrets=secrets)
    new = new_secret(b"n" * 32)
    secrets.insert(0, new)
    owed = await stage.owed(receiver.url)
    deliverer.hand_over(owed)
    await stage.recorded(*owed)
    verified(receiver, new.text)
    verified(receiver, SECRET.text)


async def test_every_attempt_has_the_same_id_and_bytes_until_the_schedule_is_used_up(stage: Stage) -> None:
    receiver = await stage.receiver(status(500, "no"))
    deliverer = await stage.deliverer(policy=RetryPolicy(delays=(0, 0)))
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed, times=3)
    assert (view.state, view.attempts) == (DeliveryState.DEAD, 3)
    assert view.last_error is not None
    assert view.last_error.code == "http_500"
    assert {(call.id, call.body) for call in receiver.calls} == {(owed.id, owed.payload)}
    for number in range(3):
        verified(receiver, SECRET.text, number)
    log = (await stage.store.delivery(owed.id, None))[1]
    assert [(one.status_code, one.body) for one in log] == [(500, "no")] * 3


async def test_a_failure_is_due_again_after_its_delay_and_a_tenth_at_most(stage: Stage) -> None:
    receiver = await stage.receiver(status(500))
    deliverer = await stage.deliverer(policy=RetryPolicy(delays=(1000, 1)))
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed)
    [attempt] = (await stage.store.delivery(owed.id, None))[1]
    assert view.state is DeliveryState.PENDING
    assert view.next_attempt_at == pytest.approx(attempt.started_at + attempt.duration_seconds + 1050, abs=1)


@pytest.mark.parametrize(("code", "delay"), [(503, 7000), (429, 7000), (500, 1050)])
async def test_retry_after_delays_on_429_and_503_only(stage: Stage, code: int, delay: float) -> None:
    receiver = await stage.receiver(status(code, Retry_After="7000"))
    deliverer = await stage.deliverer(policy=RetryPolicy(delays=(1000,)))
    [owed] = await stage.owed(receiver.url)
    before = stage.store.now()
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed)
    assert view.next_attempt_at == pytest.approx(before + delay, abs=5)


async def test_410_ends_a_delivery_at_once(stage: Stage) -> None:
    receiver = await stage.receiver(status(410))
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed)
    assert view.state is DeliveryState.DEAD
    assert view.last_error is not None
    assert view.last_error.code == "gone"


async def test_a_literal_address_that_is_refused_ends_a_delivery_without_a_connection(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer(targets=TargetPolicy())
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed)
    assert view.state is DeliveryState.DEAD
    assert view.last_error is not None
    assert view.last_error.code == "callback_refused"
    assert receiver.calls == []


async def test_a_name_that_leads_to_a_refused_address_is_tried_again(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    names = {"app.example": [["127.0.0.1", "169.254.169.254"], ["127.0.0.1"]]}
    deliverer = await stage.deliverer(names=names, policy=RetryPolicy(delays=(0,)))
    [owed] = await stage.owed(f"http://app.example:{receiver.port}/hook")
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed, times=2)
    first, second = (await stage.store.delivery(owed.id, None))[1]
    assert first.error is not None
    assert (first.error.code, first.status_code, second.status_code) == ("target_refused", None, 200)
    assert view.state is DeliveryState.DELIVERED


async def test_nobody_listening_is_a_failure_that_is_tried_again(stage: Stage) -> None:
    with socket.socket() as taken:  # bound, not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        deliverer = await stage.deliverer(policy=RetryPolicy(delays=(1000,)))
        [owed] = await stage.owed(f"http://127.0.0.1:{taken.getsockname()[1]}/hook")
        deliverer.hand_over([owed])
        [view] = await stage.recorded(owed)
    assert view.state is DeliveryState.PENDING
    assert view.last_error is not None
    assert view.last_error.code == "connection_failed"


async def test_a_broken_attempt_is_a_failed_one_and_says_nothing_of_the_host(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer(policy=RetryPolicy(delays=(1000,)))
    [owed] = await stage.owed(receiver.url, secret="whsec_not-base64")
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed)
    assert view.state is DeliveryState.PENDING
    assert view.last_error is not None
    assert view.last_error.code == "internal_error"
    assert await stage.store.host_failures() == {}


async def test_what_an_answer_repeats_of_the_watchs_headers_is_not_kept(stage: Stage) -> None:
    receiver = await stage.receiver(status(401, "no: Bearer tok-123456789\0, tok-123456789"))
    deliverer = await stage.deliverer(policy=RetryPolicy(delays=(1000,)))
    [owed] = await stage.owed(receiver.url, headers={"Authorization": "Bearer tok-123456789"})
    deliverer.hand_over([owed])
    await stage.recorded(owed)
    [attempt] = (await stage.store.delivery(owed.id, None))[1]
    assert attempt.body is not None
    assert "tok-1" not in attempt.body
    assert "\0" not in attempt.body
    assert "[redacted]" in attempt.body


def test_a_value_that_the_cut_halves_is_not_kept_either() -> None:
    hidden = "tok-123456789"
    body = (b"x" * (4096 - 8)) + hidden.encode()[:8]
    assert body_text(body, [hidden]) == "x" * (4096 - 8)
    assert body_text(body[1:], [hidden]).endswith("tok-1234")  # a whole body ends as it ends


async def test_metrics_tell_of_attempts_and_of_the_way_from_the_settling(stage: Stage) -> None:
    receiver = await stage.receiver(status(500), ok)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.recorded(owed, times=2)
    text = stage.metrics.render().decode()
    assert 'amux_bridge_attempts_total{result="5xx"} 1.0' in text
    assert 'amux_bridge_attempts_total{result="2xx"} 1.0' in text
    assert "amux_bridge_attempt_seconds_count 2.0" in text
    assert "amux_bridge_settle_to_first_attempt_seconds_count 1.0" in text
    assert "amux_bridge_settle_to_delivered_seconds_count 1.0" in text


async def test_what_is_sent_again_on_request_is_no_first_attempt_and_goes_on_counting(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge.delivery")
    receiver = await stage.receiver(status(500), ok, ok)
    deliverer = await stage.deliverer()
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.recorded(owed, times=2)
    await stage.store.retry(owed.id, None)
    deliverer.wake()
    [view] = await stage.recorded(owed, times=3)
    assert view.attempts == 3
    told = [(one.msg, one.__dict__["bridge_fields"]) for one in caplog.records if one.name == "bridge.delivery"]
    assert [(event, fields["attempt"]) for event, fields in told] == [
        ("attempt", 1),
        ("delivered", 2),
        ("delivered", 3),
    ]
    text = stage.metrics.render().decode()
    assert "amux_bridge_settle_to_first_attempt_seconds_count 1.0" in text
    assert "amux_bridge_settle_to_delivered_seconds_count 1.0" in text


async def test_a_retry_asked_for_during_the_last_attempt_is_made_all_the_same(stage: Stage) -> None:
    async def held_then_500(receiver: Receiver) -> web.Response:
        await receiver.released.wait()
        return web.Response(status=500)

    receiver = await stage.receiver(status(500), held_then_500, ok)
    deliverer = await stage.deliverer(policy=RetryPolicy(delays=(0,)))
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    await stage.until(lambda: len(receiver.calls) == 2)
    await stage.store.retry(owed.id, None)
    receiver.released.set()
    [view] = await stage.recorded(owed, times=3)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 3)
    assert stage.told.of("dead") == []
    [_, asked] = stage.told.of("attempt")
    assert (asked["attempt"], asked["means"]) == (
        2,
        "a retry was asked for while it was under way: it is sent again now",
    )


async def test_a_status_event_is_no_settlement(stage: Stage) -> None:
    receiver = await stage.receiver(ok)
    deliverer = await stage.deliverer()
    [task] = await stage.watched(receiver.url, events=frozenset({EventType.IN_PROGRESS}))
    owed = await stage.sighted(task)
    deliverer.hand_over(owed)
    await stage.recorded(*owed)
    assert "amux_bridge_settle_to_first_attempt_seconds_count 0.0" in stage.metrics.render().decode()


async def test_a_timeout_is_a_failure_within_the_attempts_clock(stage: Stage) -> None:
    receiver = await stage.receiver(hang)
    deliverer = await stage.deliverer(timeout_seconds=0.2, policy=RetryPolicy(delays=(1000,)))
    [owed] = await stage.owed(receiver.url)
    deliverer.hand_over([owed])
    [view] = await stage.recorded(owed)
    assert view.last_error is not None
    assert view.last_error.code == "timeout"
