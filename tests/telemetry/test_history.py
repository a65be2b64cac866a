"""The history of counters: minutes, the lag's quantile, outcomes and the store's times."""

from bridge.core.model import Answered, NoAnswer, Outcome, TaskRecord, TaskStatus, TransientError
from bridge.telemetry import Metrics
from bridge.telemetry.history import MINUTES, History, lag_quantile, settled_by_outcome, store_milliseconds
from bridge.web.dashboard.overview import charts

T0 = 1_795_446_240.0  # the start of a minute
RUNNING = TaskRecord(TaskStatus.IN_PROGRESS)


class Hour:
    def __init__(self) -> None:
        self.metrics = Metrics()
        self.now = T0
        self.history = History(self.metrics, lambda: self.now)

    async def at(self, seconds: float) -> None:
        self.now = T0 + seconds
        await self.history.sample()


async def test_each_minute_has_the_growth_of_the_counters() -> None:
    hour = Hour()
    hour.metrics.polls.count(RUNNING, 0.0, 0.1)
    await hour.at(0)  # the growth before the first sample counts for no minute
    hour.metrics.polls.count(RUNNING, 0.0, 0.1)
    hour.metrics.polls.count(TransientError("http_502", "no"), 0.0, 0.1)
    await hour.at(50)
    hour.metrics.polls.count(RUNNING, 0.0, 0.1)
    hour.metrics.count_attempt(Answered(204))
    hour.metrics.count_attempt(NoAnswer("connection_failed", "no"))
    await hour.at(60)
    first, second = charts(hour.history.minutes())
    assert (first["at"], first["polls"], first["failed_polls"]) == (int(T0), 1, 1)
    assert (second["polls"], second["delivered"], second["failed_attempts"]) == (1, 1, 1)


async def test_only_the_last_hour_is_kept() -> None:
    hour = Hour()
    for minute in range(MINUTES + 20):
        await hour.at(60.0 * minute)
    assert len(hour.history.minutes()) == MINUTES
    hour.now += 600.0
    assert len(hour.history.minutes()) == MINUTES - 10


async def test_a_quantile_of_the_lag_is_the_bound_of_its_bucket() -> None:
    hour = Hour()
    await hour.at(0)
    assert lag_quantile(hour.history.minutes(), 0.95) is None
    for _ in range(95):
        hour.metrics.polls.count(RUNNING, 0.02, 0.1)
    for _ in range(5):
        hour.metrics.polls.count(RUNNING, 7.0, 0.1)
    await hour.at(10)
    assert lag_quantile(hour.history.minutes(), 0.95) == 0.05
    assert lag_quantile(hour.history.minutes(), 0.99) == 10.0
    hour.metrics.polls.count(RUNNING, 1000.0, 0.1)
    await hour.at(60)
    assert lag_quantile(hour.history.minutes()[-1:], 0.5) == float("inf")
    assert charts(hour.history.minutes())[-1]["lag_seconds"] == 60.0


async def test_outcomes_are_summed_and_the_stores_time_is_averaged() -> None:
    hour = Hour()
    await hour.at(0)
    assert store_milliseconds(hour.history.minutes()) is None
    hour.metrics.settled[Outcome.TIMED_OUT].inc(3)
    for seconds in (0.001, 0.003):
        hour.metrics.store_seconds.labels("settle").observe(seconds)
    await hour.at(10)
    assert settled_by_outcome(hour.history.minutes())["timed_out"] == 3
    found = store_milliseconds(hour.history.minutes())
    assert found is not None
    assert round(found, 6) == 2.0
