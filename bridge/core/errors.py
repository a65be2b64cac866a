"""Everything that can go wrong and has a name. HTTP numbers are given to them in `web/errors.py`."""

from bridge.core.health import HealthCode


class BridgeError(Exception):
    """A trouble with a name: `code` is for programs, the message is one sentence for people."""

    code = "internal_error"


class InvalidRequest(BridgeError):
    """A request that breaks a rule; `fields` pairs each bad field with the rule it breaks."""

    code = "invalid_request"

    def __init__(self, fields: list[tuple[str, str]], *, code: str = "invalid_request") -> None:
        super().__init__("; ".join(f"{field}: {rule}" for field, rule in fields))
        self.fields = fields
        self.code = code


class TargetRefused(BridgeError):
    """A callback target that must not be reached; the message names the rule."""

    code = "callback_refused"


class NotFound(BridgeError):
    """Nothing of that id that this app may see."""

    code = "not_found"


class WatchConflict(BridgeError):
    """The app already has an active watch on this task and callback, with other options."""

    code = "watch_conflict"

    def __init__(self, watch_id: str) -> None:
        super().__init__(f"an active watch on this task and callback has other options: {watch_id}")
        self.watch_id = watch_id


class IdempotencyConflict(BridgeError):
    """An Idempotency-Key that was used with another body."""

    code = "idempotency_conflict"


class WatchSettled(BridgeError):
    """A settled watch cannot be cancelled."""

    code = "watch_settled"


class WatchActive(BridgeError):
    """An active watch has no terminal event yet."""

    code = "watch_active"


class TooManyWatches(BridgeError):
    """The bridge holds as many active watches as it is set to."""

    code = "too_many_watches"
    retry_after_seconds = 30


class StoreUnavailable(BridgeError):
    """The database did not answer, or refused; nothing was stored."""

    code = "store_unavailable"
    retry_after_seconds = 5

    def __init__(self, message: str, cause: HealthCode = HealthCode.STORE_UNWRITABLE) -> None:
        super().__init__(message)
        self.cause = cause


class LostClaim(BridgeError):
    """The lease or ownership that a write was made under is gone; its result must be dropped."""

    code = "lost_claim"


class BadSetting(BridgeError):
    """A setting that stops the start; the message names it."""

    code = "bad_setting"
