"""Tests the main promise: for every answer of amux, each watch ends once, and its receiver gets the right event."""

import time

import pytest

from bridge.sandbox import PRIVATE_MARK, Behaviour, Fault, FaultKind, Outcome
from tests.e2e.bridges import OTHER_APP, check_all_delivered, check_nothing_stuck, rows, runtime
from tests.e2e.harness import Environment, environment

# --- terminal and status events -----------------------------------------------------------------------------------


async def test_in_every_form_of_answer_a_watch_ends_once_with_its_url(env: Environment) -> None:
    tasks = {
        env.amux.create_task(Behaviour(queue_seconds=5, run_seconds=5, form=form)): form
        for form in ("A", "B", "C", "D", "ABCD", "DCBA", "BADC", "CDAB")
    }
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        for seconds in (6, 6):
            # Waits for four polls of each task in each status, so a form such as ABCD has used all its letters.
            await env.wait_for_polls(*tasks, more=4)
            env.clock.now += seconds
        await env.receiver.wait_for_events(watches)
    check_all_delivered(env.database_url, watches)
    env.receiver.check_copies()
    assert len(env.receiver.arrived) == len(watches)
    for watch, task in zip(watches, tasks, strict=True):
        event = env.receiver.terminal(watch)
        assert (event["type"], event["data"]["task_id"], event["data"]["status"]) == (
            "video.completed",
            task,
            "completed",
        )
        assert event["data"]["url"] == env.video_url(task)
        assert event["data"]["error"] is None
        assert PRIVATE_MARK not in str(event)


async def test_a_failed_record_whose_url_holds_the_error_has_no_url(env: Environment) -> None:
    failing = Behaviour(queue_seconds=0, run_seconds=0, outcome=Outcome.FAILED, error_in_url=True, form="C")
    tasks = [env.amux.create_task(failing), env.amux.create_task(Behaviour(0, 0, Outcome.FAILED, form="D"))]
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        await env.receiver.wait_for_events(watches)
    for watch in watches:
        event = env.receiver.terminal(watch)
        assert (event["type"], event["data"]["url"], event["data"]["content_url"]) == ("video.failed", None, None)
        assert event["data"]["error"]["message"] == failing.error_message


async def test_a_success_without_a_url_has_its_content_url(env: Environment) -> None:
    tasks = [env.amux.create_task(Behaviour(0, 0, form="CD", url=url)) for url in (None, "content")]
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        await env.receiver.wait_for_events(watches)
    for watch, task in zip(watches, tasks, strict=True):
        data = env.receiver.terminal(watch)["data"]
        assert (data["status"], data["url"]) == ("completed", None)
        assert data["content_url"] == f"{env.amux_url}/v1/videos/{task}/content"


async def test_status_events_are_sent_once_and_only_where_they_were_asked_for(env: Environment) -> None:
    task = env.amux.create_task(Behaviour(queue_seconds=10, run_seconds=10))
    async with runtime(env.database_url, env.amux_url) as bridge:
        events = ["video.queued", "video.in_progress", "video.completed"]
        asked = await bridge.register(task, env.receiver.url, events=events)
        plain = await bridge.register(task, env.receiver.url + "/plain")
        silent = await bridge.register(task, env.receiver.url + "/silent", events=["video.failed"])
        for number in (1, 2):
            await env.receiver.until(lambda number=number: len(env.receiver.calls) >= number)  # type: ignore[misc]
            await env.wait_for_polls(task, more=2)  # a poll that sees the same status makes no second event
            env.clock.now += 11
        await env.receiver.wait_for_events([asked, plain])
        pulled = await bridge.ask("GET", f"/watch/{silent}/envelope")
        assert (pulled.status, pulled.json["type"]) == (200, "video.completed")
        assert (await bridge.watch(silent))["deliveries"] == []
    assert [call.type for call in env.receiver.calls if call.watch_id == asked] == events
    assert [call.type for call in env.receiver.calls if call.watch_id != asked] == ["video.completed"]
    env.receiver.check_copies()
    check_nothing_stuck(env.database_url)


async def test_two_watches_on_a_task_share_its_polls(env: Environment) -> None:
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


async def test_a_cancelled_watch_is_not_polled_and_gets_no_event(env: Environment) -> None:
    task, other = env.running_task(), env.running_task()
    async with runtime(env.database_url, env.amux_url) as bridge:
        watch = await bridge.register(task, env.receiver.url)
        marker = await bridge.register(other, env.receiver.url)
        await env.wait_for_polls(task, more=2)
        cancelled = await bridge.ask("DELETE", f"/watch/{watch}")
        assert (cancelled.status, cancelled.json["state"]) == (200, "cancelled")
        polls = env.amux.polls[task] + 1  # one poll may be in progress
        await env.wait_for_polls(other, more=5)
        assert env.amux.polls[task] <= polls
        env.clock.now += 11
        await env.receiver.wait_for_events([marker])
    assert {call.watch_id for call in env.receiver.arrived} == {marker}
    check_nothing_stuck(env.database_url)


# --- errors of amux -----------------------------------------------------------------------------------------------

TRANSIENT = (
    *(FaultKind.HTML_200, FaultKind.TRUNCATED_JSON, FaultKind.EMPTY_BODY, FaultKind.DATA_NULL),
    *(FaultKind.SERVER_ERROR, FaultKind.PANIC, FaultKind.BAD_GATEWAY_HTML, FaultKind.NOT_IMPLEMENTED),
    *(FaultKind.WRONG_CONTENT_TYPE, FaultKind.HUGE_BODY, FaultKind.CUT_BODY, FaultKind.RESET, FaultKind.GZIP_BOMB),
    *(FaultKind.REDIRECT, FaultKind.WRONG_BASE_404, FaultKind.WRONG_TASK, FaultKind.NOT_FOUND_400),
    *(FaultKind.DEEP_JSON, FaultKind.FORBIDDEN_TASK, FaultKind.REJECTED),
)


async def test_no_transient_error_ends_a_watch(env: Environment) -> None:
    tasks = [
        env.amux.create_task(Behaviour(0, 0, faults=(Fault(kind, times=2), Fault(FaultKind.HTML_200))))
        for kind in TRANSIENT
    ]
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        await env.receiver.wait_for_events(watches)
        assert env.amux.unknown_paths == {}  # the redirect was not followed
    check_all_delivered(env.database_url, watches)
    assert {env.receiver.terminal(watch)["type"] for watch in watches} == {"video.completed"}


async def test_a_refused_key_pauses_its_watches_and_an_accepted_one_resumes_them(env: Environment) -> None:
    key, own = "sk-configured-0123456789", "sk-own-0123456789"
    env.amux.keys = frozenset({own})
    tasks = [env.finished_task() for _ in range(5)]
    async with runtime(env.database_url, env.amux_url) as bridge:
        watches = await bridge.register_many(tasks, env.receiver.url)
        with_own_key = await bridge.register(env.finished_task(), env.receiver.url, api_key=own)
        await env.receiver.wait_for_events([with_own_key])  # another credential is not affected
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
        shown = await bridge.until("GET", f"/watch/{watch}", lambda _: env.amux.unknown_paths[path] >= 7)
        assert (shown.json["state"], shown.json["last_error"]["code"]) == ("active", "http_404")
    # The operator corrects the setting and starts the bridge again.
    async with runtime(env.database_url, env.amux_url) as bridge:
        await env.receiver.wait_for_events([watch])
    assert env.receiver.terminal(watch)["type"] == "video.completed"
    check_all_delivered(env.database_url, [watch])


@pytest.mark.parametrize("as_date", [False, True])
async def test_a_429_slows_the_whole_credential_for_as_long_as_it_says(either_url: str, *, as_date: bool) -> None:
    # A date has whole seconds, so at least 2 s of the 3 s remain.
    limit = Fault(FaultKind.RATE_LIMITED, retry_after=3.0 if as_date else 1.0, as_date=as_date)
    async with environment(either_url, clock=time.monotonic) as env, runtime(either_url, env.amux_url) as bridge:
        others = [env.endless_task() for _ in range(3)]
        await bridge.register_many(others, env.receiver.url)
        await env.wait_for_polls(*others)
        limited = env.amux.create_task(Behaviour(0, 0, faults=(limit,)))
        watch = await bridge.register(limited, env.receiver.url)
        await env.wait_for_polls(limited)
        started, polls_before = time.monotonic(), sum(env.amux.polls[task] for task in others)
        await env.wait_for_polls(limited)
        assert time.monotonic() - started >= (1.5 if as_date else 0.95)
        # At most one poll of each task was in progress, and one followed the first good answer.
        assert sum(env.amux.polls[task] for task in others) <= polls_before + 2 * len(others)
        await env.receiver.wait_for_events([watch])


# --- deadlines ----------------------------------------------------------------------------------------------------


async def test_at_the_deadline_one_last_poll_finds_a_completed_video(env: Environment) -> None:
    finished, running = env.running_task(), env.endless_task()
    slow = {"poll_interval_seconds": "600", "poll_max_interval_seconds": "600"}
    async with runtime(env.database_url, env.amux_url, **slow) as bridge:
        watches = await bridge.register_many([finished, running], env.receiver.url, timeout_seconds=2)
        await env.wait_for_polls(finished, running)
        env.clock.now += 11
        await env.receiver.wait_for_events(watches)
    assert (env.amux.polls[finished], env.amux.polls[running]) == (2, 2)
    assert env.receiver.terminal(watches[0])["type"] == "video.completed"
    timed_out = env.receiver.terminal(watches[1])
    assert (timed_out["type"], timed_out["data"]["status"]) == ("video.timed_out", "in_progress")
    assert timed_out["data"]["error"]["code"] == "watch_timed_out"
    assert "may still finish" in timed_out["data"]["error"]["message"]
    check_all_delivered(env.database_url, watches)


async def test_at_the_deadline_with_a_refused_key_the_watch_times_out_without_a_poll(env: Environment) -> None:
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
        intervals = {"poll_first_delay_seconds": "1", "poll_interval_seconds": "1", "poll_max_interval_seconds": "2"}
        async with runtime(either_url, env.amux_url, **intervals) as bridge:
            watches = await bridge.register_many(tasks, env.receiver.url)
            await env.receiver.wait_for_events(watches)
        check_all_delivered(either_url, watches)
        env.receiver.check_copies()
        assert len(env.receiver.accepted_ids) == len(watches)
        assert len(env.receiver.arrived) == len(watches)
        for watch, task in zip(watches, tasks, strict=True):
            assert env.receiver.terminal(watch)["data"]["url"] == env.video_url(task)
