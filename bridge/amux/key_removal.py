"""Removes the key of a request from the answer. amux and its vendors repeat what they were sent."""

from dataclasses import replace
from functools import lru_cache, partial
from urllib.parse import unquote

from bridge.amux.record import LONGEST_CODE, LONGEST_MESSAGE, LONGEST_MODEL, LONGEST_PLATFORM, LONGEST_STATUS
from bridge.core.model import Observation, PollRejected, Problem, TaskRecord, TaskStatus
from bridge.telemetry import redact
from bridge.telemetry.redaction import SHORTEST_SECRET

_CACHED_NAMES = 128  # pairs of a model and a platform: there are few


class KeyRemoval:
    """Removes one key from texts of amux. A key that is shorter than a secret is not removed."""

    __slots__ = ("_key", "_names_hold_key")

    def __init__(self, key: str) -> None:
        self._key = key
        self._names_hold_key = lru_cache(_CACHED_NAMES)(partial(_names_hold, key))

    def names(self, model: str | None, platform: str | None) -> tuple[str | None, str | None]:
        """Returns the names of a model and a platform; None for both if one of them contains the key."""
        return (None, None) if self._names_hold_key(model, platform) else (model, platform)

    def observation(self, observation: Observation) -> Observation:
        """Returns an observation without the key. A URL or a name that contains it becomes None."""
        if isinstance(observation, TaskRecord):
            return self.record(observation)
        if isinstance(observation, PollRejected):
            return PollRejected(self.text(observation.code, LONGEST_CODE), self.text(observation.message))
        return replace(observation, message=self.text(observation.message))

    def record(self, record: TaskRecord) -> TaskRecord:
        """Returns a record without the key. Most records have only names, and stay the same object."""
        if self._names_hold_key(record.model, record.platform):
            record = record._replace(model=None, platform=None)
        if record.status is TaskStatus.COMPLETED:
            url, container = self._if_without(record.url), self._if_without(record.format)
            if (url, container) != (record.url, record.format):
                record = record._replace(url=url, format=container)
        elif record.error is not None:
            code, message = record.error.code, record.error.message
            code = self.text(code, LONGEST_CODE) if isinstance(code, str) else code
            record = record._replace(error=Problem(code, self.text(message) if message else None))
        elif record.raw_status:
            record = record._replace(raw_status=self.text(record.raw_status, LONGEST_STATUS))
        return record

    def text(self, text: str, longest: int = LONGEST_MESSAGE) -> str:
        """Returns a text without the key and its lower-case form, because statuses and codes are in lower case.

        `longest` is the length to which such texts are cut.
        """
        cleaned = redact(text, (self._key, self._key.lower()))
        if len(text) < longest:
            return cleaned
        # The text was cut, perhaps inside a key, and the key's first part would remain. Percent-encoding triples a key.
        return cleaned[: -3 * len(self._key)]

    def _if_without(self, text: str | None) -> str | None:
        """Returns the text, or None if it contains the key: a URL with a redacted part is useless."""
        if text is None or len(self._key) < SHORTEST_SECRET:
            return text
        return None if self._key in text or self._key in unquote(text) else text


def _names_hold(key: str, model: str | None, platform: str | None) -> bool:
    """Whether a name repeats the key, in any case, or may end with a part of it. `redact` would take half of a poll."""
    if len(key) < SHORTEST_SECRET:
        return False
    names = f"{model or ''} {platform or ''}".lower()
    cut = len(model or "") == LONGEST_MODEL or len(platform or "") == LONGEST_PLATFORM
    return cut or key.lower() in names or ("%" in names and key.lower() in unquote(names))
