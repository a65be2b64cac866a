"""Child processes, each pinned to a core and measured from outside. Their parent has already imported everything."""

import asyncio
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import uvloop

_FORK = multiprocessing.get_context("fork")
_ALLOWED = sorted(os.sched_getaffinity(0))
MEASURED, LOADING = _ALLOWED[0], _ALLOWED[-1]
"""The core of the measured process, and the core of its load: upstream, receivers, clients and the bench itself."""
OTHERS = _ALLOWED[:-1] or _ALLOWED
"""The cores for several measured processes."""

_DIES_WITH_ITS_PARENT = 1  # prctl's PR_SET_PDEATHSIG
_STOP_SECONDS = 40.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """The wall-clock and CPU seconds of some work. `cpu` is the time of one process with all its threads."""

    wall: float
    cpu: float

    @property
    def share(self) -> float:
        """The share of one core."""
        return self.cpu / self.wall


class Meter:
    """Measures wall-clock and CPU seconds from its construction on."""

    def __init__(self, cpu: Callable[[], float]) -> None:
        self._cpu = cpu
        self._start = time.monotonic(), cpu()

    def read(self) -> Usage:
        return Usage(time.monotonic() - self._start[0], self._cpu() - self._start[1])


def own_cpu() -> float:
    """Returns the CPU seconds of this process with all its threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def machines_cpu() -> float:
    """Returns the CPU seconds of all programs on all cores since the machine started."""
    words = Path("/proc/stat").read_text().partition("\n")[0].split()
    user, nice, system, _idle, _wait, hard_interrupts, soft_interrupts = map(int, words[1:8])
    return (user + nice + system + hard_interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def own_written() -> int:
    """Returns how many bytes of files this process has changed; see `Child.written`."""
    return _written("self")


def _written(process: int | str) -> int:
    lines = Path(f"/proc/{process}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("write_bytes")).split()[1])


@dataclass(frozen=True)
class ThreadTimes:
    """CPU seconds of each thread of a process, by the thread's id. The main thread has the process's id."""

    main: float
    others: dict[int, float]

    def since(self, earlier: "ThreadTimes") -> "ThreadTimes":
        others = {thread: seconds - earlier.others.get(thread, 0.0) for thread, seconds in self.others.items()}
        return ThreadTimes(self.main - earlier.main, others)


class Child:
    """A forked process on one core, which runs `target(pipe, *arguments)` and answers requests.

    `ready_message` is its first message: its URL, or whatever its creator waits for.
    """

    def __init__(self, core: int, target: Callable[..., None], *arguments: Any, start_seconds: float = 120.0) -> None:
        self._pipe, childs_end = _FORK.Pipe()
        self._process = _FORK.Process(target=_begin, args=(core, childs_end, target, arguments), daemon=True)
        self._process.start()
        childs_end.close()
        self.pid = self._process.pid or 0
        self.name = target.__name__
        try:
            self.ready_message = self._answer(start_seconds)
        except BaseException:
            self.stop()
            raise

    def ask(self, request: Any, seconds: float = 60.0) -> Any:
        """Sends a request and returns the answer."""
        self._pipe.send(request)
        return self._answer(seconds)

    def cpu(self) -> float:
        """Returns its CPU seconds so far. Python lacks clock_getcpuclockid, so the clock's id is computed."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def threads(self) -> ThreadTimes:
        """Returns the CPU seconds of each of its threads so far."""
        times = {
            int(thread.name): int((thread / "schedstat").read_text().split()[0]) / 1e9
            for thread in Path(f"/proc/{self.pid}/task").iterdir()
        }
        return ThreadTimes(times.pop(self.pid), times)

    def written(self) -> int:
        """Returns how many bytes of files it has changed so far, in whole pages, as the kernel writes them."""
        return _written(self.pid)

    def rss(self) -> int:
        """Returns its resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def meter(self) -> Meter:
        return Meter(self.cpu)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Stops it while the block runs, so that another process has the core alone."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            print(f"{self.name} does not stop and is killed", file=sys.stderr)
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answer(self, seconds: float) -> Any:
        try:
            if self._pipe.poll(seconds):
                return self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name} ended unexpectedly; see its output above, or its log") from None
        raise RuntimeError(f"{self.name} does not answer")


def _begin(core: int, pipe: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    ctypes.CDLL(None).prctl(_DIES_WITH_ITS_PARENT, signal.SIGKILL)
    os.sched_setaffinity(0, {core})
    target(pipe, *arguments)


def serve(pipe: Connection, start: Callable[[], Coroutine[Any, Any, Any]], answer: Callable[[Any], Any]) -> None:
    """Runs a server in this process. `start` returns the ready message. `answer` answers each request of the bench."""

    async def run() -> None:
        pipe.send(await start())
        asyncio.get_running_loop().add_reader(pipe.fileno(), lambda: pipe.send(answer(pipe.recv())))
        await asyncio.Event().wait()

    uvloop.run(run())


def once(pipe: Connection, coroutine: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> None:
    """Runs one coroutine in this process and sends its result as the ready message."""
    pipe.send(uvloop.run(coroutine(*arguments)))


def run_once(
    core: int, coroutine: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any, seconds: float = 120.0
) -> Any:
    """Runs a coroutine in its own process and returns the result."""
    with Child(core, once, coroutine, *arguments, start_seconds=seconds) as child:
        return child.ready_message
