"""Attacks the main promise: whatever amux answers, each watch ends once, with the right event, at its receiver."""

import time

import pytest

from bridge.sandbox import PRIVATE_MARK, Behaviour, Fault, FaultKind, Outcome
from tests.e2e.bridges import OTHER_APP, check_all_delivered, check_nothing_stuck, rows, runtime
from tests.e2e.harness import Environment, environment

# --- endings ------------------------------------------------------------------------------------------------------


async def test_whatever_form_each_poll_is_answered_in_a_watch_ends_once_with_its_url(env: Environment) -> None:
    tasks = {
        env.amux.create_task(Behaviour(queue_seconds=5, run_seconds=5, form=form)): form
        for form in ("A", "B", "C", "D", "ABCD", "DCBA", "BADC", "CDAB")
    }
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        for seconds in (6, 6):
            # Four polls of each at every stage: a form that alternates has shown all its letters.
            await env.wait_for_polls(*tasks, more=4)
            env.clock.now += seconds
        await env.receiver.wait_for_events(watches)
    check_all_delivered(env.database_url, watches)
    env.receiver.check_copies()
    assert len(env.receiver.arrived) == len(watches)
    for watch, task in zip(watches, tasks, strict=True):
        told = env.receiver.terminal(watch)
        assert (told["type"], told["data"]["task_id"], told["data"]["status"]) == ("video.completed", task, "completed")
        assert told["data"]["url"] == env.video_url(task)
        assert told["data"]["error"] is None
        assert PRIVATE_MARK not in str(told)


async def test_a_failed_record_whose_url_holds_the_error_has_no_url(env: Environment) -> None:
    failing = Behaviour(queue_seconds=0, run_seconds=0, outcome=Outcome.FAILED, error_in_url=True, form="C")
    tasks = [env.amux.create_task(failing), env.amux.create_task(Behaviour(0, 0, Outcome.FAILED, form="D"))]
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        await env.receiver.wait_for_events(watches)
    for watch in watches:
        told = env.receiver.terminal(watch)
        assert (told["type"], told["data"]["url"], told["data"]["content_url"]) == ("video.failed", None, None)
        assert told["data"]["error"]["message"] == failing.error_message


async def test_a_success_without_a_url_has_its_content_url(env: Environment) -> None:
    tasks = [env.amux.create_task(Behaviour(0, 0, form="CD", url=url)) for url in (None, "content")]
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        await env.receiver.wait_for_events(watches)
    for watch, task in zip(watches, tasks, strict=True):
        data = env.receiver.terminal(watch)["data"]
        assert (data["status"], data["url"]) == ("completed", None)
        assert data["content_url"] == f"{env.amux_url}/v1/videos/{task}/content"


async def test_status_events_come_to_those_who_asked_and_once(env: Environment) -> None:
    task = env.amux.create_task(Behaviour(queue_seconds=10, run_seconds=10))
    async with runtime(env.database_url, env.amux_url) as bridge:
        events = ["video.queued", "video.in_progress", "video.completed"]
        asked = await bridge.register(task, env.receiver.url, events=events)
        plain = await bridge.register(task, env.receiver.url + "/plain")
        silent = await bridge.register(task, env.receiver.url + "/silent", events=["video.failed"])
        for number in (1, 2):
            await env.receiver.until(lambda number=number: len(env.receiver.calls) >= number)  # type: ignore[misc]
            await env.wait_for_polls(task, more=2)  # seen again: no second event
            env.clock.now += 11
        await env.receiver.wait_for_events([asked, plain])
        pulled = await bridge.ask("GET", f"/watch/{silent}/envelope")
        assert (pulled.status, pulled.json["type"]) == (200, "video.completed")
        assert (await bridge.watch(silent))["deliveries"] == []
    assert [call.type for call in env.receiver.calls if call.watch_id == asked] == events
    assert [call.type for call in env.receiver.calls if call.watch_id != asked] == ["video.completed"]
    env.receiver.check_copies()
    check_nothing_stuck(env.database_url)


async def test_two_watches_on_a_task_are_one_poll(env: Environment) -> None:
    task = env.running_task()
    async with runtime(env.database_url, env.amux_url) as bridge:
        one = await bridge.register(task, env.receiver.url + "/one")
        two = await bridge.register(task, env.receiver.url + "/two")
        body = {"task_id": task, "callback_url": env.receiver.url}
        third = await bridge.ask("POST", "/watch", json=body, headers=OTHER_APP)
        assert third.status == 201
        watches = [one, two, str(third.json["id"])]
        await env.wait_for_polls(task, more=5)
        env.clock.now += 11
        await env.receiver.wait_for_events(watches)
        shown = await bridge.watch(one)
        assert shown["polls"] == env.amux.polls[task]
    assert len(rows(env.database_url, "SELECT id FROM tasks")) == 1
    assert len({env.receiver.terminal(watch)["id"] for watch in watches}) == 3
    check_all_delivered(env.database_url, watches)


async def test_a_cancelled_watch_is_polled_and_told_no_more(env: Environment) -> None:
    task, other = env.running_task(), env.running_task()
    async with runtime(env.database_url, env.amux_url) as bridge:
        watch = await bridge.register(task, env.receiver.url)
        marker = await bridge.register(other, env.receiver.url)
        await env.wait_for_polls(task, more=2)
        cancelled = await bridge.ask("DELETE", f"/watch/{watch}")
        assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
        polls = env.amux.polls[task] + 1  # one may be under way
        await env.wait_for_polls(other, more=5)
        assert env.amux.polls[task] <= polls
        env.clock.now += 11
        await env.receiver.wait_for_events([marker])
    assert {call.watch_id for call in env.receiver.arrived} == {marker}
    check_nothing_stuck(env.database_url)


# --- trouble ------------------------------------------------------------------------------------------------------

TRANSIENT = (
    *(FaultKind.HTML_200, FaultKind.TRUNCATED_JSON, FaultKind.EMPTY_BODY, FaultKind.DATA_NULL),
    *(FaultKind.SERVER_ERROR, FaultKind.PANIC, FaultKind.BAD_GATEWAY_HTML, FaultKind.NOT_IMPLEMENTED),
    *(FaultKind.WRONG_CONTENT_TYPE, FaultKind.HUGE_BODY, FaultKind.CUT_BODY, FaultKind.RESET, FaultKind.GZIP_BOMB),
    *(FaultKind.REDIRECT, FaultKind.WRONG_BASE_404, FaultKind.WRONG_TASK, FaultKind.NOT_FOUND_400),
    *(FaultKind.DEEP_JSON, FaultKind.FORBIDDEN_TASK, FaultKind.REJECTED),
)


async def test_no_trouble_that_passes_ends_a_watch(env: Environment) -> None:
    tasks = [
        env.amux.create_task(Behaviour(0, 0, faults=(Fault(kind, times=2), Fault(FaultKind.HTML_200))))
        for kind in TRANSIENT
    ]
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        await env.receiver.wait_for_events(watches)
        assert env.amux.strays == {}  # the redirect was not followed
    check_all_delivered(env.database_url, watches)
    assert {env.receiver.terminal(watch)["type"] for watch in watches} == {"video.completed"}


async def test_a_refused_key_pauses_its_watches_and_a_good_answer_resumes_them(env: Environment) -> None:
    key, own = "sk-configured-0123456789", "sk-own-0123456789"
    env.amux.keys = frozenset({own})
    tasks = [env.finished_task() for _ in range(5)]
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        with_own_key = await bridge.register(env.finished_task(), env.receiver.url, api_key=own)
        await env.receiver.wait_for_events([with_own_key])  # another credential is not held up
        degraded = await bridge.until("GET", "/readyz", lambda answer: answer.json["status"] == "degraded")
        assert (degraded.status, degraded.json["checks"]["amux"]) == (200, "degraded")
        paused_at = sum(env.amux.polls[task] for task in tasks)
        assert (await bridge.watch(watches[0]))["state"] == "active"
        env.amux.keys = frozenset({key, own})
        await env.receiver.wait_for_events(watches)
        assert paused_at <= len(tasks) + 3  # one probe at a time, not five
        ready = await bridge.until("GET", "/readyz", lambda answer: answer.json["status"] == "ready")
        assert ready.status == 200
    check_all_delivered(env.database_url, [*watches, with_own_key])


async def test_a_wrong_base_url_ends_no_watch_and_readyz_says_so(env: Environment) -> None:
    task = env.finished_task()
    async with runtime(env.database_url, env.amux_url + "/wrong") as bridge:
        watch = await bridge.register(task, env.receiver.url)
        degraded = await bridge.until("GET", "/readyz", lambda answer: answer.json["status"] == "degraded")
        assert degraded.status == 200
        path = f"/wrong/v1/video/generations/{task}"
        shown = await bridge.until("GET", f"/watch/{watch}", lambda _: env.amux.strays[path] >= 7)
        assert (shown.json["state"], shown.json["last_error"]["code"]) == ("active", "http_404")
    # The setting is put right, and the service started anew.
    async with runtime(env.database_url, env.amux_url) as bridge:
        await env.receiver.wait_for_events([watch])
    assert env.receiver.terminal(watch)["type"] == "video.completed"
    check_all_delivered(env.database_url, [watch])


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_429_slows_the_whole_credential_down_for_as_long_as_it_asks(either_url: str, *, as_date: bool) -> None:
    # A date counts in whole seconds: of 3 s at least 2 are left.
    limit = Fault(FaultKind.RATE_LIMITED, retry_after=3.0 if as_date else 1.0, as_date=as_date)
    async with environment(either_url, clock=time.monotonic) as env, runtime(either_url, env.amux_url) as bridge:
        others = [env.endless_task() for _ in range(3)]
        await bridge.register_many(others, env.receiver.url)
        await env.wait_for_polls(*others)
        limited = env.amux.create_task(Behaviour(0, 0, faults=(limit,)))
        watch = await bridge.register(limited, env.receiver.url)
        await env.wait_for_polls(limited)
        began, under_way = time.monotonic(), sum(env.amux.polls[task] for task in others)
        await env.wait_for_polls(limited)
        assert time.monotonic() - began >= (1.5 if as_date else 0.95)
        # Those under way came through, and what a probe's good answer has let go since.
        assert sum(env.amux.polls[task] for task in others) <= under_way + 2 * len(others)
        await env.receiver.wait_for_events([watch])


# --- deadlines ----------------------------------------------------------------------------------------------------


async def test_a_deadline_brings_one_last_poll_that_finds_a_finished_video(env: Environment) -> None:
    finished, running = env.running_task(), env.endless_task()
    slow = {"poll_interval_seconds": "600", "poll_max_interval_seconds": "600"}
    async with runtime(env.database_url, env.amux_url, **slow) as bridge:
        watches = await bridge.register_many([finished, running], env.receiver.url, timeout_seconds=2)
        await env.wait_for_polls(finished, running)
        env.clock.now += 11
        await env.receiver.wait_for_events(watches)
    assert (env.amux.polls[finished], env.amux.polls[running]) == (2, 2)
    assert env.receiver.terminal(watches[0])["type"] == "video.completed"
    late = env.receiver.terminal(watches[1])
    assert (late["type"], late["data"]["status"]) == ("video.timed_out", "in_progress")
    assert late["data"]["error"]["code"] == "watch_timed_out"
    assert "may still finish" in late["data"]["error"]["message"]
    check_all_delivered(env.database_url, watches)


async def test_a_deadline_while_the_key_is_refused_ends_the_watch_without_a_poll(env: Environment) -> None:
    env.amux.keys = frozenset()
    async with runtime(env.database_url, env.amux_url) as bridge:
        watch = await bridge.register(env.finished_task(), env.receiver.url, timeout_seconds=1.5)
        await env.receiver.wait_for_events([watch])
    assert env.receiver.terminal(watch)["type"] == "video.timed_out"
    check_all_delivered(env.database_url, [watch])


# --- many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.long)])
async def test_many_watches_at_once_are_all_delivered_under_one_id_each(either_url: str, count: int) -> None:
    async with environment(either_url, clock=time.monotonic) as env:
        tasks = [f"sandbox_200_800_completed_{number}" for number in range(count)]
        pace = {"poll_first_delay_seconds": "1", "poll_interval_seconds": "1", "poll_max_interval_seconds": "2"}
        async with runtime(either_url, env.amux_url, **pace) as bridge:
            watches = await bridge.register_many(tasks, env.receiver.url)
            await env.receiver.wait_for_events(watches)
        check_all_delivered(either_url, watches)
        env.receiver.check_copies()
        assert len(env.receiver.accepted_ids) == len(watches)
        assert len(env.receiver.arrived) == len(watches)
        for watch, task in zip(watches, tasks, strict=True):
            assert env.receiver.terminal(watch)["data"]["url"] == env.video_url(task)
