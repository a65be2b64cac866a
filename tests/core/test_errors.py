"""The errors that carry more than a sentence."""

from bridge.core.errors import InvalidRequest, StoreUnavailable, WatchConflict
from bridge.core.health import HealthCode


def test_an_invalid_request_names_every_bad_field_with_its_rule() -> None:
    fields = [("task_id", "must be given"), ("headers", "must contain at most 10 headers")]
    error = InvalidRequest(fields)
    assert str(error) == "task_id: must be given; headers: must contain at most 10 headers"
    assert (error.code, error.fields) == ("invalid_request", fields)
    assert InvalidRequest(fields, code="no_api_key").code == "no_api_key"


def test_a_watch_conflict_names_the_existing_watch() -> None:
    error = WatchConflict("wat_1")
    assert str(error) == "an active watch on this task and callback has other options: wat_1"
    assert (error.code, error.watch_id) == ("watch_conflict", "wat_1")


def test_a_store_that_is_unavailable_has_a_cause_for_the_health_of_the_replica() -> None:
    error = StoreUnavailable("the database reports an error: disk is full", HealthCode.DISK_FULL)
    assert (str(error), error.cause) == ("the database reports an error: disk is full", HealthCode.DISK_FULL)
    assert StoreUnavailable("the database does not answer").cause is HealthCode.STORE_UNWRITABLE
