"""`list`, `show` and `cancel`, with a running bridge."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.harness import BridgeInThread, Command, bridge_in_thread

CLOSED_PORT_URL = "http://127.0.0.1:9/hook?token=in-the-query"  # the discard port: nothing listens on it


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BridgeInThread]:
    with bridge_in_thread(tmp_path_factory.mktemp("bridge")) as running:
        yield running


def register(command: Command, bridge: BridgeInThread, task: str, *options: str, url: str = CLOSED_PORT_URL) -> Any:
    return json.loads(command("watch", task, "--callback", url, "--json", *options, **bridge.client).out)


def settled(command: Command, bridge: BridgeInThread, task: str) -> Any:
    """Watches a task until its callback is delivered. Returns the watch."""
    command("watch", task, "--callback", bridge.hook_url, "--wait", **bridge.client)
    return json.loads(command("show", task, "--json", **bridge.client).out)


def test_list_shows_one_line_for_each_watch_newest_first(command: Command, bridge: BridgeInThread) -> None:
    first = settled(command, bridge, "sandbox_0_0_completed_a1")
    second = register(command, bridge, "sandbox_0_0_never_a2")
    result = command("list", **bridge.client)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == [second["id"], first["id"]]
    assert lines[1].split()[1:] == ["completed", "delivered", first["created_at"], first["task_id"]]


def test_list_filters_and_prints_one_object_for_scripts(command: Command, bridge: BridgeInThread) -> None:
    watch = register(command, bridge, "sandbox_0_0_never_b1")
    register(command, bridge, "sandbox_0_0_never_b2")
    found = command("list", "--task", watch["task_id"], "--state", "active", "--app", "shop", "--json", **bridge.client)
    page = json.loads(found.out)
    assert [one["id"] for one in page["items"]] == [watch["id"]]
    assert page["next_cursor"] is None
    assert json.loads(command("list", "--outcome", "unavailable", "--json", **bridge.client).out)["items"] == []


def test_list_searches_and_takes_times_and_hosts(command: Command, bridge: BridgeInThread) -> None:
    context = '{"order": "the-very-order-17"}'
    watch = register(command, bridge, "sandbox_0_0_never_s1", "--context", context)

    def found(*arguments: str) -> list[str]:
        result = command("list", *arguments, "--json", **bridge.client)
        assert (result.code, result.err) == (0, "")
        return [one["id"] for one in json.loads(result.out)["items"]]

    assert found("--search", "VERY-order") == [watch["id"]]
    assert watch["id"] in found("--callback-host", "127.0.0.1", "--since", "1h", "--limit", "200")
    assert found("--until", "1h") == []
    assert found("--callback-host", "app.example.com") == []
    wrong = command("list", "--since", "yesterday", **bridge.client)
    assert (wrong.code, wrong.out) == (2, "")
    assert wrong.err.startswith("amux-bridge: --since must be a time")


def test_list_says_that_there_is_nothing_or_more(command: Command, bridge: BridgeInThread) -> None:
    nothing = command("list", "--task", "task_of_no_watch", **bridge.client)
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "no watch matches\n")
    for number in range(3):
        register(command, bridge, "sandbox_0_0_never_c1", url=f"http://127.0.0.1:9/{number}")
    page = command("list", "--task", "sandbox_0_0_never_c1", "--limit", "2", **bridge.client)
    assert len(page.out.splitlines()) == 2
    cursor = page.out.splitlines()[1].split()[0]
    assert page.err == f"there are more watches: use --limit 4, or continue with --cursor {cursor}\n"
    rest = command("list", "--task", "sandbox_0_0_never_c1", "--cursor", cursor, **bridge.client)
    assert (len(rest.out.splitlines()), rest.err) == (1, "")


def test_list_reads_several_pages_for_a_large_limit(
    command: Command, bridge: BridgeInThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.cli.list.PAGE", 2)
    for number in range(5):
        register(command, bridge, "sandbox_0_0_never_d1", url=f"http://127.0.0.1:9/{number}")
    page = json.loads(command("list", "--task", "sandbox_0_0_never_d1", "--limit", "5", "--json", **bridge.client).out)
    assert len({watch["id"] for watch in page["items"]}) == 5


def test_show_describes_a_watch_and_its_deliveries(command: Command, bridge: BridgeInThread) -> None:
    watch = settled(command, bridge, "sandbox_0_0_completed_e1")
    result = command("show", watch["id"], **bridge.client)
    lines = dict(line.split(maxsplit=1) for line in result.out.splitlines())
    assert (result.code, result.err) == (0, "")
    assert lines["watch"] == f"{watch['id']}  completed  (app shop)"
    assert lines["task"].startswith("sandbox_0_0_completed_e1  completed")
    assert lines["callback"] == bridge.hook_url
    assert lines["video"] == watch["task"]["url"]
    delivery = watch["deliveries"][0]
    assert lines["delivery"].startswith(f"{delivery['id']}  video.completed  delivered  at {delivery['delivered_at']}")
    as_json = json.loads(command("show", watch["id"], "--json", **bridge.client).out)
    assert as_json["deliveries"][0]["id"] == delivery["id"]


def test_show_describes_each_attempt_of_a_delivery(command: Command, bridge: BridgeInThread) -> None:
    watch = settled(command, bridge, "sandbox_0_0_failed_f1")
    delivery = watch["deliveries"][0]["id"]
    lines = command("show", delivery, **bridge.client).out.splitlines()
    assert lines[0].startswith(f"delivery   {delivery}  video.failed  delivered  at 20")
    assert lines[1] == f"watch      {watch['id']}"
    assert lines[2].startswith("attempt 1  20")
    assert "  204 in 0." in lines[2]
    assert json.loads(command("show", delivery, "--json", **bridge.client).out)["watch_id"] == watch["id"]


def test_show_does_not_print_the_query_of_a_callback(command: Command, bridge: BridgeInThread) -> None:
    watch = register(command, bridge, "sandbox_0_0_never_g1")
    shown = command("show", watch["id"], **bridge.client).out
    assert "http://127.0.0.1:9/hook?..." in shown
    assert "in-the-query" not in shown


def test_show_of_a_task_shows_its_newest_watch(command: Command, bridge: BridgeInThread) -> None:
    register(command, bridge, "sandbox_0_0_never_h1")
    newest = register(command, bridge, "sandbox_0_0_never_h1", url="http://127.0.0.1:9/other")
    result = command("show", "sandbox_0_0_never_h1", **bridge.client)
    assert result.out.startswith(f"watch       {newest['id']}  ")
    assert result.err == "this is the newest of 2 watches on the task: list --task sandbox_0_0_never_h1\n"
    missing = command("show", "task_of_no_watch", **bridge.client)
    assert (missing.code, missing.err) == (1, "amux-bridge: there is no watch on the task task_of_no_watch\n")


def test_cancel_is_repeatable(command: Command, bridge: BridgeInThread) -> None:
    watch = register(command, bridge, "sandbox_0_0_never_i1")
    for _ in range(2):
        result = command("cancel", watch["id"], **bridge.client)
        assert (result.code, result.out, result.err) == (0, f"{watch['id']} is cancelled\n", "")
    as_json = json.loads(command("cancel", watch["id"], "--json", **bridge.client).out)
    assert as_json["state"] == "cancelled"


def test_cancel_takes_a_task_with_one_active_watch(command: Command, bridge: BridgeInThread) -> None:
    task = "sandbox_0_0_never_j1"
    first = register(command, bridge, task)
    second = register(command, bridge, task, url="http://127.0.0.1:9/other")
    both = command("cancel", task, **bridge.client)
    assert (both.code, both.out) == (1, "")
    assert both.err.endswith(f"has 2 active watches; cancel them one by one: {second['id']}, {first['id']}\n")
    command("cancel", first["id"], **bridge.client)
    assert command("cancel", task, **bridge.client).out == f"{second['id']} is cancelled\n"
    none = command("cancel", task, **bridge.client)
    assert (none.code, none.err) == (1, f"amux-bridge: there is no active watch on the task {task}\n")


def test_what_is_missing_or_settled_is_one_sentence(command: Command, bridge: BridgeInThread) -> None:
    watch = settled(command, bridge, "sandbox_0_0_completed_k1")
    for arguments in (["cancel", watch["id"]], ["show", "wat_missing"], ["show", "evt_missing"], ["cancel", "wat_x"]):
        result = command(*arguments, **bridge.client)
        assert (result.code, result.out) == (1, "")
        assert len(result.err.splitlines()) == 1
