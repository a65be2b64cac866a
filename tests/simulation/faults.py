"""What goes wrong in a world: processes that crash, freeze or restart, clocks that are set, a bad database, amux."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tests.simulation.amux import Trouble
from tests.simulation.hosts import Host
from tests.simulation.http import WORLD
from tests.simulation.plan import HoldUp
from tests.simulation.replicas import HeldUp, name_of
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

LATE_ANSWERS = 14.0  # seconds that an answer of a hanging database takes at most


class Faults:
    """The actions of a plan in which something goes wrong, one method for each."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._lasting = 0
        self._restarting: set[Any] = set()  # hosts
        self.disturbed_at = 0.0  # when a process last ended, or went on after a freeze

    def actions(self) -> Mapping[str, Callable[..., None]]:
        """Return the actions by their names in a plan."""
        return {
            "crash": self.crash,
            "freeze": self.freeze,
            "restart": self.restart,
            "clock": self.clock,
            "database": self.database,
            "amux": self.amux,
            "hold_up": self.hold_up,
            "disk": self.disk,
        }

    def calm_seconds(self) -> float:
        """Return for how many seconds nothing has been wrong."""
        world = self._world
        if self._lasting or any(slot.runtime is None for slot in world.replicas.slots):
            return 0.0
        return world.loop.time() - world.troubled_at

    def crash(self, replica: int, seconds: float) -> None:
        """End a process at once, and start another one `seconds` later."""
        slot = self._world.replicas.slots[replica]
        if slot.host is None or slot.host.crashed:
            return
        self._world.replicas.end(slot)
        self.disturbed_at = self._world.loop.time()
        self.lasts(seconds)
        self._world.loop.call_later(seconds, self._world.replicas.start_again, slot, slot.host)

    def kill(self, host: Host, seconds: float) -> None:
        """End the process of a host at once, from a callback of that process."""
        self._world.loop.call_external(0.0, self.crash, int(host.name[-1]), seconds, context=WORLD)

    def restart(self, replica: int, seconds: float) -> None:
        """Stop a bridge as SIGTERM does, and start another one `seconds` later."""
        slot = self._world.replicas.slots[replica]
        if slot.runtime is None or slot.stopping or slot.host in self._restarting:
            return
        self._lasting += 1
        self._restarting.add(slot.host)  # `stopping` is true a moment later: another restart may come at this moment
        self._world.tasks.append(self._world.loop.create_task(self._stop_and_start(slot, seconds)))

    async def _stop_and_start(self, slot: Any, seconds: float) -> None:
        host = slot.host
        try:
            await self._world.replicas.stop(slot)
            await asyncio.sleep(seconds)
            self._world.replicas.start_again(slot, host)
        except Violation as error:
            self._world.failed(error)
        finally:
            self._restarting.discard(host)
            self.disturbed_at = self._world.loop.time()
            self._recovered()

    def freeze(self, replica: int, seconds: float) -> None:
        """Halt a process for `seconds`, as soon as no callback of it is ready to run."""
        host = self._world.replicas.slots[replica].host
        if host is None or host.crashed or host.frozen:
            return
        if self._world.loop.has_ready(host):
            self._world.loop.call_later(0.0005, self.freeze, replica, seconds)
            return
        host.frozen = True
        self.disturbed_at = self._world.loop.time() + seconds
        self.lasts(seconds)
        self._world.loop.call_later(seconds, host.thaw)

    def hold_up(self, replica: int, operation: str, how: HoldUp, where: str, seconds: float) -> None:
        """Hold up the next transaction with an operation, before it runs or before its answer."""
        self._world.replicas.slots[replica].held_up.append(HeldUp(operation, how, where == "before", seconds))

    def clock(self, replica: int, seconds: float) -> None:
        """Set the wall clock of a host forward, or back if `seconds` is negative."""
        slot = self._world.replicas.slots[replica]
        self._world.invariants.removals.note_time()
        slot.wall_ahead += seconds
        self._world.clock_was_set = True
        if slot.host is not None:
            slot.host.wall_ahead += seconds
        self.lasts(0.0)

    def disk(self, replica: int, seconds: float) -> None:
        """Let the disk of a host be full for `seconds`."""
        drive = self._world.drives[name_of(replica)]
        drive.is_full = True
        self.lasts(seconds)
        self._world.loop.call_later(seconds, lambda: setattr(drive, "is_full", False))

    def database(self, kind: str, seconds: float, replica: int | None = None) -> None:
        """Let the database be bad for `seconds`: for all replicas, or for `replica` alone."""
        places = self._world.server.weather
        concerned = list(places.values()) if replica is None else [places[name_of(replica)]]
        for weather in concerned:
            match kind:
                case "refusing":
                    weather.refusing = True
                case "unknown" if self._world.plan.shared:  # in SQLite a commit that fails is never stored
                    weather.unknown_share = 0.5
                case "failing" | "unknown":
                    weather.failing_share = 0.5
                case "slow":
                    weather.slow_share, weather.slow_seconds = 0.5, 6.0
                case _:
                    weather.slow_share, weather.slow_seconds = 0.6, LATE_ANSWERS
            self._world.loop.call_later(seconds, weather.clear)
        self.lasts(seconds + (LATE_ANSWERS if kind == "hanging" else 6.0))

    def amux(self, kind: Trouble, seconds: float) -> None:
        """Let amux be in trouble for `seconds`."""
        self._world.amux.trouble = kind
        # The bridge probes a refused key after pauses that double, so the last pause may be as long as the trouble.
        self.lasts(3 * seconds + 10.0 if kind in {Trouble.REFUSING, Trouble.THROTTLED} else seconds + 6.0)
        self._world.loop.call_later(seconds, self._good_amux)

    def end(self) -> None:
        """End all faults that last. From now on nothing goes wrong."""
        for slot in self._world.replicas.slots:
            slot.held_up.clear()
        for weather in self._world.server.weather.values():
            weather.clear()
        self._good_amux()
        self._world.receivers.calm = True

    def _good_amux(self) -> None:
        self._world.amux.trouble = Trouble.NONE

    def lasts(self, seconds: float) -> None:
        """Note that something is wrong for `seconds`."""
        self._lasting += 1
        self._world.loop.call_later(seconds, self._recovered)

    def _recovered(self) -> None:
        self._lasting -= 1
        self._world.troubled_at = self._world.loop.time()
