"""One attempt: what is sent, what an answer means, and what is stored."""

import json
import logging
import socket
from base64 import b64decode

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
from tests.delivery.harness import SECRET, Harness, Receiver, hang, ok, status


def verify(receiver: Receiver, secret: str, number: int = -1) -> object:
    call = receiver.calls[number]
    svix.Webhook(secret).verify(call.body, call.headers)
    return standardwebhooks.Webhook(secret).verify(call.body, call.headers)


async def test_a_2xx_is_delivered_and_every_library_verifies_it(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery)
    assert (view.state, view.attempts, view.last_error) == (DeliveryState.DELIVERED, 1, None)
    assert view.delivered_at is not None
    assert verify(receiver, SECRET.text) == json.loads(delivery.payload)
    assert receiver.calls[0].body == delivery.payload
    assert receiver.calls[0].headers["content-type"] == "application/json"
    [attempt] = (await harness.store.delivery(delivery.id, "app"))[1]
    assert (attempt.status_code, attempt.error, attempt.body) == (200, None, "ok")


async def test_a_watchs_own_secret_and_headers_are_used_and_the_key_still_signs(harness: Harness) -> None:
    own, key = new_secret(b"o" * 24), SigningKey(b"k" * 32)
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer(signing_key=key)
    [delivery] = await harness.claimed(receiver.url, secret=own.text, headers={"Authorization": "Bearer abc123def"})
    deliverer.add_new([delivery])
    await harness.recorded(delivery)
    verify(receiver, own.text)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        verify(receiver, SECRET.text)
    [call] = receiver.calls
    assert call.headers["authorization"] == "Bearer abc123def"
    v1, v1a = call.headers["webhook-signature"].split(" ")
    assert (v1[:3], v1a[:4]) == ("v1,", "v1a,")
    public = Ed25519PublicKey.from_public_bytes(b64decode(key.public_text.removeprefix(PUBLIC_PREFIX)))
    public.verify(b64decode(v1a[4:]), f"{call.id}.{call.headers['webhook-timestamp']}.".encode() + call.body)


async def test_secrets_changed_in_place_are_used_from_the_next_attempt(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    secrets = [SECRET]
    deliverer = await harness.deliverer(secrets=secrets)
    new = new_secret(b"n" * 32)
    secrets.insert(0, new)
    deliveries = await harness.claimed(receiver.url)
    deliverer.add_new(deliveries)
    await harness.recorded(*deliveries)
    verify(receiver, new.text)
    verify(receiver, SECRET.text)


async def test_every_attempt_has_the_same_id_and_bytes_until_the_schedule_is_used_up(harness: Harness) -> None:
    receiver = await harness.receiver(status(500, "no"))
    deliverer = await harness.deliverer(policy=RetryPolicy(delays=(0, 0)))
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery, times=3)
    assert (view.state, view.attempts) == (DeliveryState.DEAD, 3)
    assert view.last_error is not None
    assert view.last_error.code == "http_500"
    assert {(call.id, call.body) for call in receiver.calls} == {(delivery.id, delivery.payload)}
    for number in range(3):
        verify(receiver, SECRET.text, number)
    log = (await harness.store.delivery(delivery.id, None))[1]
    assert [(one.status_code, one.body) for one in log] == [(500, "no")] * 3


async def test_a_failed_delivery_is_due_after_its_delay_plus_at_most_a_tenth(harness: Harness) -> None:
    receiver = await harness.receiver(status(500))
    deliverer = await harness.deliverer(policy=RetryPolicy(delays=(1000, 1)))
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery)
    [attempt] = (await harness.store.delivery(delivery.id, None))[1]
    assert view.state is DeliveryState.PENDING
    assert view.next_attempt_at == pytest.approx(attempt.started_at + attempt.duration_seconds + 1050, abs=1)


@pytest.mark.parametrize(("code", "delay"), [(503, 7000), (429, 7000), (500, 1050)])
async def test_retry_after_delays_on_429_and_503_only(harness: Harness, code: int, delay: float) -> None:
    receiver = await harness.receiver(status(code, Retry_After="7000"))
    deliverer = await harness.deliverer(policy=RetryPolicy(delays=(1000,)))
    [delivery] = await harness.claimed(receiver.url)
    before = harness.store.now()
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery)
    assert view.next_attempt_at == pytest.approx(before + delay, abs=40)


async def test_410_ends_a_delivery_at_once(harness: Harness) -> None:
    receiver = await harness.receiver(status(410))
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery)
    assert view.state is DeliveryState.DEAD
    assert view.last_error is not None
    assert view.last_error.code == "gone"


async def test_a_literal_address_that_is_refused_ends_a_delivery_without_a_connection(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer(targets=TargetPolicy())
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery)
    assert view.state is DeliveryState.DEAD
    assert view.last_error is not None
    assert view.last_error.code == "callback_refused"
    assert receiver.calls == []


async def test_a_name_that_leads_to_a_refused_address_is_tried_again(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    names = {"app.example": [["127.0.0.1", "169.254.169.254"], ["127.0.0.1"]]}
    deliverer = await harness.deliverer(names=names, policy=RetryPolicy(delays=(0,)))
    [delivery] = await harness.claimed(f"http://app.example:{receiver.port}/hook")
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery, times=2)
    first, second = (await harness.store.delivery(delivery.id, None))[1]
    assert first.error is not None
    assert (first.error.code, first.status_code, second.status_code) == ("target_refused", None, 200)
    assert view.state is DeliveryState.DELIVERED


async def test_a_refused_connection_is_tried_again(harness: Harness) -> None:
    with socket.socket() as bound:  # this socket does not listen, so every connection is refused
        bound.bind(("127.0.0.1", 0))
        deliverer = await harness.deliverer(policy=RetryPolicy(delays=(1000,)))
        [delivery] = await harness.claimed(f"http://127.0.0.1:{bound.getsockname()[1]}/hook")
        deliverer.add_new([delivery])
        [view] = await harness.recorded(delivery)
    assert view.state is DeliveryState.PENDING
    assert view.last_error is not None
    assert view.last_error.code == "connection_failed"


async def test_an_internal_error_fails_the_attempt_and_does_not_count_against_the_host(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer(policy=RetryPolicy(delays=(1000,)))
    [delivery] = await harness.claimed(receiver.url, secret="whsec_not-base64")
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery)
    assert view.state is DeliveryState.PENDING
    assert view.last_error is not None
    assert view.last_error.code == "internal_error"
    assert await harness.store.host_failures() == {}


async def test_header_values_that_an_answer_repeats_are_not_stored(harness: Harness) -> None:
    receiver = await harness.receiver(status(401, "no: Bearer tok-123456789\0, tok-123456789"))
    deliverer = await harness.deliverer(policy=RetryPolicy(delays=(1000,)))
    [delivery] = await harness.claimed(receiver.url, headers={"Authorization": "Bearer tok-123456789"})
    deliverer.add_new([delivery])
    await harness.recorded(delivery)
    [attempt] = (await harness.store.delivery(delivery.id, None))[1]
    assert attempt.body is not None
    assert "tok-1" not in attempt.body
    assert "\0" not in attempt.body
    assert "[redacted]" in attempt.body


def test_a_header_value_that_the_limit_cuts_is_not_stored_in_part() -> None:
    hidden = "tok-123456789"
    body = (b"x" * (4096 - 8)) + hidden.encode()[:8]
    assert body_text(body, [hidden]) == "x" * (4096 - 8)
    assert body_text(body[1:], [hidden]).endswith("tok-1234")  # below the limit, a body is stored whole


async def test_metrics_count_attempts_and_measure_the_time_since_the_settlement(harness: Harness) -> None:
    receiver = await harness.receiver(status(500), ok)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.recorded(delivery, times=2)
    text = harness.metrics.render().decode()
    assert 'amux_bridge_attempts_total{result="5xx"} 1.0' in text
    assert 'amux_bridge_attempts_total{result="2xx"} 1.0' in text
    assert "amux_bridge_attempt_seconds_count 2.0" in text
    assert "amux_bridge_settle_to_first_attempt_seconds_count 1.0" in text
    assert "amux_bridge_settle_to_delivered_seconds_count 1.0" in text


async def test_a_requested_retry_is_no_first_attempt_and_the_attempt_number_continues(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bridge.delivery")
    receiver = await harness.receiver(status(500), ok, ok)
    deliverer = await harness.deliverer()
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.recorded(delivery, times=2)
    await harness.store.retry(delivery.id, None)
    deliverer.wake()
    [view] = await harness.recorded(delivery, times=3)
    assert view.attempts == 3
    lines = [(one.msg, one.__dict__["bridge_fields"]) for one in caplog.records if one.name == "bridge.delivery"]
    assert [(event, fields["attempt"]) for event, fields in lines] == [
        ("attempt", 1),
        ("delivered", 2),
        ("delivered", 3),
    ]
    text = harness.metrics.render().decode()
    assert "amux_bridge_settle_to_first_attempt_seconds_count 1.0" in text
    assert "amux_bridge_settle_to_delivered_seconds_count 1.0" in text


async def test_a_retry_requested_during_the_last_attempt_is_made(harness: Harness) -> None:
    async def wait_then_500(receiver: Receiver) -> web.Response:
        await receiver.released.wait()
        return web.Response(status=500)

    receiver = await harness.receiver(status(500), wait_then_500, ok)
    deliverer = await harness.deliverer(policy=RetryPolicy(delays=(0,)))
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    await harness.until(lambda: len(receiver.calls) == 2)
    await harness.store.retry(delivery.id, None)
    receiver.released.set()
    [view] = await harness.recorded(delivery, times=3)
    assert (view.state, view.attempts) == (DeliveryState.DELIVERED, 3)
    assert harness.log.of("dead") == []
    [_, line] = harness.log.of("attempt")
    assert (line["attempt"], line["means"]) == (
        2,
        "a retry was requested during the attempt; the delivery is sent again now",
    )


async def test_a_status_event_does_not_count_as_a_settlement(harness: Harness) -> None:
    receiver = await harness.receiver(ok)
    deliverer = await harness.deliverer()
    [task] = await harness.watch(receiver.url, events=frozenset({EventType.IN_PROGRESS}))
    deliveries = await harness.status_events(task)
    deliverer.add_new(deliveries)
    await harness.recorded(*deliveries)
    assert "amux_bridge_settle_to_first_attempt_seconds_count 0.0" in harness.metrics.render().decode()


async def test_an_attempt_that_times_out_has_failed(harness: Harness) -> None:
    receiver = await harness.receiver(hang)
    deliverer = await harness.deliverer(timeout_seconds=0.2, policy=RetryPolicy(delays=(1000,)))
    [delivery] = await harness.claimed(receiver.url)
    deliverer.add_new([delivery])
    [view] = await harness.recorded(delivery)
    assert view.last_error is not None
    assert view.last_error.code == "timeout"
