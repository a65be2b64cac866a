"""One watch during its registration, as `registration.py` and `idempotency_keys.py` decide it."""

from dataclasses import dataclass, field

from bridge.core.errors import BridgeError
from bridge.core.task_class import class_by_app
from bridge.store.records import NewWatch, RegisteredWatch
from bridge.store.replicas import Replica
from bridge.store.row_mapping import digest, wants_status


@dataclass(slots=True)
class Entry:
    """One watch during its registration. It is decided as soon as `result`, `key_owner` or `existing` is set.

    `key_owner` is the first entry of the same batch with the same Idempotency-Key; this entry gets the same result.
    `existing` is the id of a watch that exists already and is read for the result. `created` is whether the first
    answer with this Idempotency-Key was 201.
    """

    new: NewWatch
    replica: Replica
    endpoint: str = field(init=False)  # a digest of the app, the task id and the URL
    task_key: str = field(init=False)  # a digest of the credential and the task id
    wants_status: bool = field(init=False)
    task_class: str | None = field(init=False)
    key_owner: "Entry | None" = None
    existing: str | None = None
    created: bool = False
    result: RegisteredWatch | BridgeError | None = None

    def __post_init__(self) -> None:
        watch = self.new.watch
        self.endpoint = digest(watch.app, watch.task_id, watch.callback_url)
        self.task_key = digest(self.new.credential, watch.task_id)
        self.wants_status = wants_status(watch.events)
        self.task_class = None if watch.model is None else class_by_app(watch.model)
