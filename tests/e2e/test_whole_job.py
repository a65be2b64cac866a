"""Attacks the main promise: whatever amux answers, each watch ends once, with the right event, at its receiver."""

import time
from collections.abc import AsyncIterator

import pytest

from bridge.sandbox import PRIVATE_MARK, Behaviour, Fault, FaultKind, Outcome
from tests.e2e.bridges import OTHER_APP, check_all_ended, check_nothing_stuck, rows, runtime
from tests.e2e.harness import World, world


@pytest.fixture
async def around(either_url: str) -> AsyncIterator[World]:
    async with world(either_url) as made:
        yield made


# --- endings ------------------------------------------------------------------------------------------------------


async def test_whatever_form_each_poll_is_answered_in_a_watch_ends_once_with_its_url(around: World) -> None:
    tasks = {
        around.amux.create_task(Behaviour(queue_seconds=5, run_seconds=5, form=form)): form
        for form in ("A", "B", "C", "D", "ABCD", "DCBA", "BADC", "CDAB")
    }
    async with runtime(around.database_url, around.amux_url) as bridge:
        watches = await bridge.register_many(tasks, around.receiver.url)
        for seconds in (6, 6):
            # Four polls of each at every stage: a form that alternates has shown all its letters.
            await around.polled(*tasks, more=4)
            around.stages.now += seconds
        await around.receiver.has(watches)
    check_all_ended(around.database_url, watches)
    around.receiver.check_copies()
    assert len(around.receiver.arrived) == len(watches)
    for watch, task in zip(watches, tasks, strict=True):
        told = around.receiver.terminal(watch)
        assert (told["type"], told["data"]["task_id"], told["data"]["status"]) == ("video.completed", task, "completed")
        assert told["data"]["url"] == around.file_of(task)
        assert told["data"]["error"] is None
        assert PRIVATE_MARK not in str(told)


async def test_a_failed_record_whose_url_holds_the_error_has_no_url(around: World) -> None:
    failing = Behaviour(queue_seconds=0, run_seconds=0, outcome=Outcome.FAILED, error_in_url=True, form="C")
    tasks = [around.amux.create_task(failing), around.amux.create_task(Behaviour(0, 0, Outcome.FAILED, form="D"))]
    async with runtime(around.database_url, around.amux_url) as bridge:
        watches = await bridge.register_many(tasks, around.receiver.url)
        await around.receiver.has(watches)
    for watch in watches:
        told = around.receiver.terminal(watch)
        assert (told["type"], told["data"]["url"], told["data"]["content_url"]) == ("video.failed", None, None)
        assert told["data"]["error"]["message"] == failing.error_message


async def test_a_success_without_a_url_has_its_content_url(around: World) -> None:
    tasks = [around.amux.create_task(Behaviour(0, 0, form="CD", url=url)) for url in (None, "content")]
    async with runtime(around.database_url, around.amux_url) as bridge:
        watches = await bridge.register_many(tasks, around.receiver.url)
        await around.receiver.has(watches)
    for watch, task in zip(watches, tasks, strict=True):
        data = around.receiver.terminal(watch)["data"]
        assert (data["status"], data["url"]) == ("completed", None)
        assert data["content_url"] == f"{around.amux_url}/v1/videos/{task}/content"


async def test_status_events_come_to_those_who_asked_and_once(around: World) -> None:
    task = around.amux.create_task(Behaviour(queue_seconds=10, run_seconds=10))
    async with runtime(around.database_url, around.amux_url) as bridge:
        events = ["video.queued", "video.in_progress", "video.completed"]
        asked = await bridge.register(task, around.receiver.url, events=events)
        plain = await bridge.register(task, around.receiver.url + "/plain")
        silent = await bridge.register(task, around.receiver.url + "/silent", events=["video.failed"])
        for number in (1, 2):
            await around.receiver.until(lambda number=number: len(around.receiver.calls) >= number)  # type: ignore[misc]
            await around.polled(task, more=2)  # seen again: no second event
            around.stages.now += 11
        await around.receiver.has([asked, plain])
        pulled = await bridge.ask("GET", f"/watch/{silent}/envelope")
        assert (pulled.status, pulled.json["type"]) == (200, "video.completed")
        assert (await bridge.watch(silent))["deliveries"] == []
    assert [call.type for call in around.receiver.calls if call.watch_id == asked] == events
    assert [call.type for call in around.receiver.calls if call.watch_id != asked] == ["video.completed"]
    around.receiver.check_copies()
    check_nothing_stuck(around.database_url)


async def test_two_watches_on_a_task_are_one_poll(around: World) -> None:
    task = around.running()
    async with runtime(around.database_url, around.amux_url) as bridge:
        one = await bridge.register(task, around.receiver.url + "/one")
        two = await bridge.register(task, around.receiver.url + "/two")
        body = {"task_id": task, "callback_url": around.receiver.url}
        third = await bridge.ask("POST", "/watch", json=body, headers=OTHER_APP)
        assert third.status == 201
        watches = [one, two, str(third.json["id"])]
        await around.polled(task, more=5)
        around.stages.now += 11
        await around.receiver.has(watches)
        shown = await bridge.watch(one)
        assert shown["polls"] == around.amux.polls[task]
    assert len(rows(around.database_url, "SELECT id FROM tasks")) == 1
    assert len({around.receiver.terminal(watch)["id"] for watch in watches}) == 3
    check_all_ended(around.database_url, watches)


async def test_a_cancelled_watch_is_polled_and_told_no_more(around: World) -> None:
    task, other = around.running(), around.running()
    async with runtime(around.database_url, around.amux_url) as bridge:
        watch = await bridge.register(task, around.receiver.url)
        marker = await bridge.register(other, around.receiver.url)
        await around.polled(task, more=2)
        cancelled = await bridge.ask("DELETE", f"/watch/{watch}")
        assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
        polls = around.amux.polls[task] + 1  # one may be under way
        await around.polled(other, more=5)
        assert around.amux.polls[task] <= polls
        around.stages.now += 11
        await around.receiver.has([marker])
    assert {call.watch_id for call in around.receiver.arrived} == {marker}
    check_nothing_stuck(around.database_url)


# --- trouble ------------------------------------------------------------------------------------------------------

TRANSIENT = (
    *(FaultKind.HTML_200, FaultKind.TRUNCATED_JSON, FaultKind.EMPTY_BODY, FaultKind.DATA_NULL),
    *(FaultKind.SERVER_ERROR, FaultKind.PANIC, FaultKind.BAD_GATEWAY_HTML, FaultKind.NOT_IMPLEMENTED),
    *(FaultKind.WRONG_CONTENT_TYPE, FaultKind.HUGE_BODY, FaultKind.CUT_BODY, FaultKind.RESET, FaultKind.GZIP_BOMB),
    *(FaultKind.REDIRECT, FaultKind.WRONG_BASE_404, FaultKind.WRONG_TASK, FaultKind.NOT_FOUND_400),
    *(FaultKind.DEEP_JSON, FaultKind.FORBIDDEN_TASK, FaultKind.REJECTED),
)


async def test_no_trouble_that_passes_ends_a_watch(around: World) -> None:
    tasks = [
        around.amux.create_task(Behaviour(0, 0, faults=(Fault(kind, times=2), Fault(FaultKind.HTML_200))))
        for kind in TRANSIENT
    ]
    async with runtime(around.database_url, around.amux_url) as bridge:
        watches = await bridge.register_many(tasks, around.receiver.url)
        await around.receiver.has(watches)
        assert around.amux.unknown_paths == {}  # the redirect was not followed
    check_all_ended(around.database_url, watches)
    assert {around.receiver.terminal(watch)["type"] for watch in watches} == {"video.completed"}


async def test_a_refused_key_pauses_its_watches_and_a_good_answer_resumes_them(around: World) -> None:
    key, own = "sk-configured-0123456789", "sk-own-0123456789"
    around.amux.keys = frozenset({own})
    tasks = [around.done() for _ in range(5)]
    async with runtime(around.database_url, around.amux_url) as bridge:
        watches = await bridge.register_many(tasks, around.receiver.url)
        with_own_key = await bridge.register(around.done(), around.receiver.url, api_key=own)
        await around.receiver.has([with_own_key])  # another credential is not held up
        degraded = await bridge.until("GET", "/readyz", lambda answer: answer.json["status"] == "degraded")
        assert (degraded.status, degraded.json["checks"]["amux"]) == (200, "degraded")
        paused_at = sum(around.amux.polls[task] for task in tasks)
        assert (await bridge.watch(watches[0]))["state"] == "active"
        around.amux.keys = frozenset({key, own})
        await around.receiver.has(watches)
        assert paused_at <= len(tasks) + 3  # one probe at a time, not five
        ready = await bridge.until("GET", "/readyz", lambda answer: answer.json["status"] == "ready")
        assert ready.status == 200
    check_all_ended(around.database_url, [*watches, with_own_key])


async def test_a_wrong_base_url_ends_no_watch_and_readyz_says_so(around: World) -> None:
    task = around.done()
    async with runtime(around.database_url, around.amux_url + "/wrong") as bridge:
        watch = await bridge.register(task, around.receiver.url)
        degraded = await bridge.until("GET", "/readyz", lambda answer: answer.json["status"] == "degraded")
        assert degraded.status == 200
        path = f"/wrong/v1/video/generations/{task}"
        shown = await bridge.until("GET", f"/watch/{watch}", lambda _: around.amux.unknown_paths[path] >= 7)
        assert (shown.json["state"], shown.json["last_error"]["code"]) == ("active", "http_404")
    # The setting is put right, and the service started anew.
    async with runtime(around.database_url, around.amux_url) as bridge:
        await around.receiver.has([watch])
    assert around.receiver.terminal(watch)["type"] == "video.completed"
    check_all_ended(around.database_url, [watch])


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_429_slows_the_whole_credential_down_for_as_long_as_it_asks(either_url: str, *, as_date: bool) -> None:
    # A date counts in whole seconds: of 3 s at least 2 are left.
    limit = Fault(FaultKind.RATE_LIMITED, retry_after=3.0 if as_date else 1.0, as_date=as_date)
    async with world(either_url, clock=time.monotonic) as around, runtime(either_url, around.amux_url) as bridge:
        others = [around.never() for _ in range(3)]
        await bridge.register_many(others, around.receiver.url)
        await around.polled(*others)
        limited = around.amux.create_task(Behaviour(0, 0, faults=(limit,)))
        watch = await bridge.register(limited, around.receiver.url)
        await around.polled(limited)
        began, under_way = time.monotonic(), sum(around.amux.polls[task] for task in others)
        await around.polled(limited)
        assert time.monotonic() - began >= (1.5 if as_date else 0.95)
        # Those under way came through, and what a probe's good answer has let go since.
        assert sum(around.amux.polls[task] for task in others) <= under_way + 2 * len(others)
        await around.receiver.has([watch])


# --- deadlines ----------------------------------------------------------------------------------------------------


async def test_a_deadline_brings_one_last_poll_that_finds_a_finished_video(around: World) -> None:
    finished, running = around.running(), around.never()
    slow = {"poll_interval_seconds": "600", "poll_max_interval_seconds": "600"}
    async with runtime(around.database_url, around.amux_url, **slow) as bridge:
        watches = await bridge.register_many([finished, running], around.receiver.url, timeout_seconds=2)
        await around.polled(finished, running)
        around.stages.now += 11
        await around.receiver.has(watches)
    assert (around.amux.polls[finished], around.amux.polls[running]) == (2, 2)
    assert around.receiver.terminal(watches[0])["type"] == "video.completed"
    late = around.receiver.terminal(watches[1])
    assert (late["type"], late["data"]["status"]) == ("video.timed_out", "in_progress")
    assert late["data"]["error"]["code"] == "watch_timed_out"
    assert "may still finish" in late["data"]["error"]["message"]
    check_all_ended(around.database_url, watches)


async def test_a_deadline_while_the_key_is_refused_ends_the_watch_without_a_poll(around: World) -> None:
    around.amux.keys = frozenset()
    async with runtime(around.database_url, around.amux_url) as bridge:
        watch = await bridge.register(around.done(), around.receiver.url, timeout_seconds=1.5)
        await around.receiver.has([watch])
    assert around.receiver.terminal(watch)["type"] == "video.timed_out"
    check_all_ended(around.database_url, [watch])


# --- many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
async def test_many_watches_at_once_are_all_delivered_under_one_id_each(either_url: str, count: int) -> None:
    async with world(either_url, clock=time.monotonic) as around:
        tasks = [f"sandbox_200_800_completed_{number}" for number in range(count)]
        pace = {"poll_first_delay_seconds": "1", "poll_interval_seconds": "1", "poll_max_interval_seconds": "2"}
        async with runtime(either_url, around.amux_url, **pace) as bridge:
            watches = await bridge.register_many(tasks, around.receiver.url)
            await around.receiver.has(watches)
        check_all_ended(either_url, watches)
        around.receiver.check_copies()
        assert len(around.receiver.accepted_ids) == len(watches)
        assert len(around.receiver.arrived) == len(watches)
        for watch, task in zip(watches, tasks, strict=True):
            assert around.receiver.terminal(watch)["data"]["url"] == around.file_of(task)
