"""The disk of the SQLite file becomes full while the bridge runs, and has room again later."""

import shlex
from pathlib import Path

import pytest

from tests.e2e.bridges import Answer, Bridge
from tests.e2e.harness import Environment
from tests.field.harness import check_works, need, program, serving, with_mounts

MEGABYTES = 8


def small_disk(folder: Path) -> list[str]:
    """Returns a prefix that mounts a disk of 8 MB at the program's folder and enters the folder again."""
    need("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt")
    place = shlex.quote(str(folder))
    return with_mounts(f"mount -t tmpfs -o size={MEGABYTES}m,mode=700 none {place}", f"cd {place}")


def fill(disk: Path) -> Path:
    """Fills a disk to its last byte with a file. Returns the file."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            with pytest.raises(OSError, match="No space left"):
                while True:
                    file.write(b"x" * size)
    return filler


async def register_until_refused(env: Environment, bridge: Bridge) -> tuple[Answer, list[str]]:
    """Registers watches until one is refused. Returns the refusal and the ids of the accepted watches."""
    taken: list[str] = []
    for _ in range(3000):
        body = {"task_id": env.finished_task(), "callback_url": env.receiver.url}
        answer = await bridge.ask("POST", "/watch", json=body)
        if answer.status != 201:
            return answer, taken
        taken.append(answer.json["id"])
    raise AssertionError("the disk never became full")


@pytest.mark.long
async def test_nothing_is_promised_while_the_disk_is_full_and_all_continues_after_it(
    folder: Path, env: Environment
) -> None:
    async with serving(folder, env, prefix=small_disk(folder)) as (running, bridge):
        first = await check_works(env, bridge)
        waiting = await bridge.register(env.running_task(), env.receiver.url)
        disk = Path(f"{running.root}{folder}")
        filler = fill(disk)
        # SQLite may have room left in its own files, so the bridge may accept some watches. It must keep these.
        refused, taken = await register_until_refused(env, bridge)
        assert (refused.status, refused.json["code"]) == (503, "store_unavailable")
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.seconds < 5.5
        await bridge.unready("full")
        assert (await bridge.ask("GET", "/healthz")).status == 200
        assert (await bridge.watch(first))["state"] == "settled"
        env.clock.now += 60  # the running task ends while the bridge can write nothing
        filler.unlink()
        await bridge.until("GET", "/readyz", lambda answer: answer.status == 200)
        assert (await bridge.final(waiting))["outcome"] == "completed"
        for watch in taken:
            assert (await bridge.final(watch))["outcome"] == "completed"
        await check_works(env, bridge)
        await running.stop()


@pytest.mark.long
async def test_a_start_on_a_full_disk_gives_the_reason_in_one_sentence(folder: Path, env: Environment) -> None:
    prefix = small_disk(folder)
    prefix[4] = prefix[4].replace('exec "$@"', 'dd if=/dev/zero of=filler bs=64k status=none || true\nexec "$@"')
    async with program(folder, prefix=prefix, amux_base_url=env.amux_url) as refused:
        assert await refused.wait_for_exit() in {1, 2}
        lines = [line for line in refused.lines if line["event"] == "start_refused"]
        assert len(lines) == 1, refused.raw
