"""What amux does outside its routes: unknown paths, their rate limit, and faults of keys. Pure."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence

from bridge.sandbox.behaviour import Fault, FaultKind, GatewayFault
from bridge.sandbox.faults import Answer, json_answer, no_such_route, page

_KEY_PREFIX = "sandbox-fault-"
_KINDS: Mapping[str, FaultKind | GatewayFault] = {kind.value: kind for kind in (*FaultKind, *GatewayFault)}
_WINDOW_SECONDS = 180.0
_API_LIMIT, _OTHER_LIMIT = 180, 60
# The middleware of these paths answers in JSON; every other path shows the dashboard's page.
_JSON_PREFIXES = ("/v1", "/api", "/assets")
_ROUTES: Sequence[tuple[str, ...]] = (
    ("v1", "video", "generations"),
    ("v1", "video", "generations", "*"),
    ("v1", "videos"),
    ("v1", "videos", "*"),
    ("v1", "videos", "*", "content"),
    ("suno", "fetch"),
)

TOO_MANY_REQUESTS = Answer(429, b"", "")


def fault_of_key(key: str) -> Fault | None:
    """Returns the fault that the name of a key contains, as in `sandbox-fault-dead_channel`; None for any other key."""
    kind = _KINDS.get(key.removeprefix(_KEY_PREFIX)) if key.startswith(_KEY_PREFIX) else None
    return Fault(kind, times=None) if kind else None


def answer_without_route(method: str, path: str) -> Answer:
    """Returns the real server's answer for a path that is not a route of the stand-in."""
    if path == "/api/status":
        return json_answer({"success": True, "message": "", "data": {"version": "sandbox"}})
    if path.endswith("/") and _is_route(path[:-1]):
        return Answer(
            301 if method == "GET" else 307, b"", "text/html; charset=utf-8", {"Location": path[:-1]}, by_amux=False
        )
    if path.startswith(_JSON_PREFIXES):
        return no_such_route(method, path)
    return page("Amux", "Amux")


def _is_route(path: str) -> bool:
    parts = path.split("/")[1:]
    return any(
        len(route) == len(parts) and all(want in {"*", got} for want, got in zip(route, parts, strict=True))
        for route in _ROUTES
    )


class RateLimit:
    """amux's limits for an address in 180 s: 180 requests of `/api/*`, and 60 of other unknown paths."""

    def __init__(self) -> None:
        self.refused: Counter[str] = Counter()
        self._times: dict[tuple[str, str], deque[float]] = {}

    def refuses(self, address: str, path: str, now: float) -> bool:
        """Counts a request. Returns whether it exceeds the limit; such a request does not count for the limit."""
        kind, limit = ("api", _API_LIMIT) if path.startswith("/api/") else ("other", _OTHER_LIMIT)
        times = self._times.setdefault((address, kind), deque())
        while times and now - times[0] >= _WINDOW_SECONDS:
            times.popleft()
        if len(times) < limit:
            times.append(now)
            return False
        self.refused[path] += 1
        return True
