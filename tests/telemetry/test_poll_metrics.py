"""The metrics of polls in both lanes."""

import pytest

from bridge.core.batch_lane import BatchAnswer, BatchFailed, BatchTooLarge, BatchUnchanged, NoBatchRoute
from bridge.core.model import KeyRefused, TaskRecord, TaskStatus, Throttled, TransientError
from bridge.telemetry import Metrics
from tests.telemetry.test_telemetry import samples


def test_polls_are_counted_by_their_result() -> None:
    metrics = Metrics()
    metrics.polls.count(TaskRecord(TaskStatus.QUEUED), 0.02, 0.1)
    metrics.polls.count(TransientError("timeout", "slow"), 3.0, 10.0)
    metrics.polls.count(Throttled("slow"), 100.0, 0.5)
    metrics.polls.count(KeyRefused("no"), 0.05, 0.5)
    found = samples(metrics)
    results = ["seen", "trouble", "slow_down", "key_refused", "not_found"]
    assert [found["amux_bridge_polls_total", ("single", result)] for result in results] == [1, 1, 1, 1, 0]
    assert found["amux_bridge_poll_lag_seconds_bucket", ("single", "0.05")] == 2
    assert found["amux_bridge_poll_lag_seconds_bucket", ("single", "60.0")] == 3
    assert found["amux_bridge_poll_lag_seconds_bucket", ("single", "+Inf")] == 4
    assert found["amux_bridge_poll_lag_seconds_count", ("single",)] == 4
    assert found["amux_bridge_poll_seconds_sum", ("single",)] == pytest.approx(11.1)
    assert found["amux_bridge_polled_tasks_total", ("single",)] == 4


def test_a_batch_is_one_poll_for_many_tasks() -> None:
    metrics = Metrics()
    metrics.polls.count_batch(BatchAnswer({}, 100), 500, 0.02, 0.1)
    metrics.polls.count_batch(BatchUnchanged(100, 500, lambda: BatchAnswer({}, 100)), 500, 0.02, 0.1)
    metrics.polls.count_batch(NoBatchRoute("http_404", "no"), 3, 0.02, 0.1)
    metrics.polls.count_batch(BatchFailed("http_429", "slow"), 3, 0.02, 0.1)
    metrics.polls.count_batch(BatchFailed("http_503", "busy"), 3, -0.1, 0.1)
    metrics.polls.count_batch(BatchTooLarge(1), 3, 0.02, 0.1)
    found = samples(metrics)
    results = ["seen", "no_route", "slow_down", "trouble"]
    assert [found["amux_bridge_polls_total", ("batch", result)] for result in results] == [2, 1, 1, 2]
    assert found["amux_bridge_polled_tasks_total", ("batch",)] == 1012
    assert found["amux_bridge_poll_seconds_count", ("batch",)] == 6
    assert found["amux_bridge_poll_lag_seconds_count", ("batch",)] == 6
    assert found["amux_bridge_poll_seconds_count", ("single",)] == 0
