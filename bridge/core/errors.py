"""The bridge's named errors. `web/errors.py` gives each one its HTTP status."""

from collections.abc import Sequence

from bridge.core.health import HealthCode


class BridgeError(Exception):
    """An error with a name: `code` is for programs, the message is one sentence for people."""

    code = "internal_error"


class InvalidRequest(BridgeError):
    """A request that breaks a rule. `fields` pairs each bad field with the rule that it breaks."""

    code = "invalid_request"

    def __init__(self, fields: list[tuple[str, str]], *, code: str = "invalid_request") -> None:
        super().__init__("; ".join(f"{field}: {rule}" for field, rule in fields))
        self.fields = fields
        self.code = code


class TargetRefused(BridgeError):
    """A callback target that the rules refuse. The message names the rule.

    `settings` are the bridge's settings of which each can allow the target.
    """

    code = "callback_refused"

    def __init__(self, message: str, settings: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.settings = tuple(settings)


class NotFound(BridgeError):
    """Nothing with this id exists, or the app may not see it."""

    code = "not_found"


class WatchConflict(BridgeError):
    """The app already has an active watch on this task and callback, with other options."""

    code = "watch_conflict"

    def __init__(self, watch_id: str) -> None:
        super().__init__(f"an active watch on this task and callback has other options: {watch_id}")
        self.watch_id = watch_id


class IdempotencyConflict(BridgeError):
    """An Idempotency-Key that was used before with another body."""

    code = "idempotency_conflict"


class WatchSettled(BridgeError):
    """A settled watch cannot be cancelled."""

    code = "watch_settled"


class WatchCancelled(BridgeError):
    """Nothing more is sent for a cancelled watch, even if a retry is requested."""

    code = "watch_cancelled"


class WatchActive(BridgeError):
    """An active watch has no terminal event yet."""

    code = "watch_active"


class CursorExpired(BridgeError):
    """Events after the cursor of an event feed may have been removed."""

    code = "cursor_expired"


class TooManyWatches(BridgeError):
    """The number of active watches has reached the configured maximum."""

    code = "too_many_watches"
    retry_after_seconds = 30


class StoreUnavailable(BridgeError):
    """The database did not answer, or refused the operation. A write whose answer was lost may still be stored."""

    code = "store_unavailable"
    retry_after_seconds = 5

    def __init__(self, message: str, cause: HealthCode = HealthCode.STORE_UNWRITABLE) -> None:
        super().__init__(message)
        self.cause = cause


class LostClaim(BridgeError):
    """The lease or the ownership that a write depends on was lost. The result must be dropped."""

    code = "lost_claim"


class BadSetting(BridgeError):
    """A setting that stops the start. The message names it."""

    code = "bad_setting"
