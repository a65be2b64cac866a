"""The fields of the API about the app's `model`, amux's record of a task, and the stages of a watch's time."""

from dataclasses import replace

import pytest

from bridge.core.model import TaskFacts
from tests.store.builders import attempt_result, record_attempt, settlement
from tests.web.harness import BODY, Bridge

SETTLED_AT = 1_795_878_250.0


async def test_a_model_is_shown_and_is_not_one_of_the_options_that_are_compared(bridge: Bridge) -> None:
    first = await bridge.post("/watch", BODY | {"model": "可灵 v2"})
    assert (first.status, first.json["task"]["model"]) == (201, "可灵 v2")
    again = await bridge.post("/watch", BODY | {"model": "other"})
    assert (again.status, again.json["id"]) == (200, first.json["id"])
    assert again.json["task"]["model"] == "可灵 v2"
    [(task, _)] = bridge.poller.added
    assert task.facts.task_class == "app 可灵 v2"


@pytest.mark.parametrize("model", ["", "m" * 192, "a\nb", "\u200b"])
async def test_a_model_that_cannot_be_shown_is_refused_by_its_rule(bridge: Bridge, model: str) -> None:
    answer = await bridge.post("/watch", BODY | {"model": model})
    problem = answer.problem(422, "invalid_request")
    assert problem["errors"] == [{"field": "model", "message": "must be 1 to 191 printable characters"}]


async def test_a_watch_shows_where_its_time_went(bridge: Bridge) -> None:
    watch = (await bridge.post("/watch", BODY | {"model": "mine"})).json
    store = bridge.context.store
    [task] = await store.own_tasks()
    facts = TaskFacts("seedance", SETTLED_AT - 100, SETTLED_AT - 10, SETTLED_AT - 2, "amux 54 seedance")
    ended = settlement(store, task.row, at=SETTLED_AT)
    changed = await store.settle(replace(ended, task=ended.task._replace(facts=facts)))
    await record_attempt(store, attempt_result(store, changed.claimed[0], at=SETTLED_AT + 1.0))
    shown = (await bridge.get(f"/watch/{watch['id']}")).json
    assert shown["task"]["model"] == "seedance"
    assert shown["timing"] == {
        "submitted_at": "2026-11-28T15:02:30.000Z",
        "finished_at": "2026-11-28T15:04:00.000Z",
        "seen_at": "2026-11-28T15:04:08.000Z",
        "settled_at": "2026-11-28T15:04:10.000Z",
        "first_attempt_at": "2026-11-28T15:04:10.750Z",
        "delivered_at": "2026-11-28T15:04:11.000Z",
    }
    assert (await bridge.get("/watch")).json["items"] == [shown]
