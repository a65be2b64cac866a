"""The bench's processes: forked from one that has imported everything, each pinned to a core, measured from outside."""

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
"""The core of what is measured, and that of what loads it: upstream, receivers, clients and the bench itself."""
OTHERS = _ALLOWED[:-1] or _ALLOWED
"""The cores that several measured ones share out among themselves."""

_DIES_WITH_ITS_PARENT = 1  # prctl's PR_SET_PDEATHSIG
_STOP_SECONDS = 40.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Spent:
    """What some work took, in seconds; `cpu` is the process's own, all threads together."""

    wall: float
    cpu: float

    @property
    def share(self) -> float:
        """How much of a core it took."""
        return self.cpu / self.wall


class Meter:
    """Seconds since it was made."""

    def __init__(self, cpu: Callable[[], float]) -> None:
        self._cpu = cpu
        self._began = time.monotonic(), cpu()

    def read(self) -> Spent:
        return Spent(time.monotonic() - self._began[0], self._cpu() - self._began[1])


def own_cpu() -> float:
    """CPU seconds of this process, all threads together."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Child:
    """A forked process that answers questions. `work(pipe, *given)` is run in it, on the core that is named.

    Its first message is its greeting: where it listens, or whatever its maker waits for.
    """

    def __init__(self, core: int, work: Callable[..., None], *given: Any, greets_within: float = 120.0) -> None:
        self._pipe, theirs = _FORK.Pipe()
        self._process = _FORK.Process(target=_begin, args=(core, theirs, work, given), daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0
        self.name = work.__name__
        try:
            self.greeting = self._answer(greets_within)
        except BaseException:
            self.stop()
            raise

    def ask(self, question: Any, seconds: float = 60.0) -> Any:
        """Its answer to a question."""
        self._pipe.send(question)
        return self._answer(seconds)

    def cpu(self) -> float:
        """CPU seconds so far: the kernel's clock of another process (clock_getcpuclockid, which Python has not)."""
        return time.clock_gettime(~self.pid << 3 | 2)

    def rss(self) -> int:
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def meter(self) -> Meter:
        return Meter(self.cpu)

    @contextmanager
    def halted(self) -> Iterator[None]:
        """Halt it, so that another has its core for itself."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(_STOP_SECONDS)
        if self._process.is_alive():
            print(f"{self.name} does not end and is killed", file=sys.stderr)
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
            raise RuntimeError(f"{self.name} died; what it said is above, or in its log") from None
        raise RuntimeError(f"{self.name} does not answer")


def _begin(core: int, pipe: Connection, work: Callable[..., None], given: tuple[Any, ...]) -> None:
    ctypes.CDLL(None).prctl(_DIES_WITH_ITS_PARENT, signal.SIGKILL)
    os.sched_setaffinity(0, {core})
    work(pipe, *given)


def answer_for_ever(
    pipe: Connection, start: Callable[[], Coroutine[Any, Any, Any]], answer: Callable[[Any], Any]
) -> None:
    """Run a server in this process: `start` makes its greeting, `answer` answers each question of the bench."""

    async def serve() -> None:
        pipe.send(await start())
        asyncio.get_running_loop().add_reader(pipe.fileno(), lambda: pipe.send(answer(pipe.recv())))
        await asyncio.Event().wait()

    uvloop.run(serve())


def once(pipe: Connection, work: Callable[..., Coroutine[Any, Any, Any]], *given: Any) -> None:
    """Run one piece of work in this process; its result is the greeting."""
    pipe.send(uvloop.run(work(*given)))


def run_once(core: int, work: Callable[..., Coroutine[Any, Any, Any]], *given: Any, seconds: float = 120.0) -> Any:
    """What a coroutine comes to in a process of its own."""
    with Child(core, once, work, *given, greets_within=seconds) as child:
        return child.greeting
