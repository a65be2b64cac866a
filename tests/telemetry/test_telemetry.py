"""Each log line is one JSON object, Prometheus can parse the metrics, and neither contains a secret."""

import asyncio
import io
import json
import logging
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import Enum
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from bridge.core.model import (
    Answer,
    Answered,
    NoAnswer,
    Outcome,
    RefusedTarget,
    TaskStatus,
)
from bridge.telemetry import CONTENT_TYPE, Log, Metrics, Redactor, Stage, redact, without_query
from bridge.telemetry.logs import ConsoleFormatter, JsonFormatter, json_value, log_loop_errors
from bridge.telemetry.metrics import ATTEMPT_RESULTS, PlainHistogram, attempt_result

SECRET = "whsec_" + "c2VjcmV0" * 5
AMUX_KEY = "amux/key+with=marks"


# --- redaction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("key amux/key+with=marks!", "key [redacted]!"),
        ("?key=amux%2Fkey%2Bwith%3Dmarks&b", "?key=[redacted]&b"),
        ("?key=amux%2fkey%2bwith%3dmarks&b", "?key=[redacted]&b"),
        (r'{"k":"amux\/key+with=marks"}', '{"k":"[redacted]"}'),
        ("longer-one and long-er", "[redacted] and long-er"),
        ("tiny is too short: it may be a word", "tiny is too short: it may be a word"),
        (f"secret {SECRET}.", "secret [redacted]."),
        (SECRET.removeprefix("whsec_"), "[redacted]"),
        ("whsec_" + "QUJD" * 8 + " unknown", "[redacted] unknown"),
        ("Authorization: Bearer abcdef, next", "Authorization: Bearer [redacted], next"),
        ('{"authorization":"bearer abc123def"}', '{"authorization":"bearer [redacted]"}'),
        ("Basic dXNlcjpwYXNzMQ==", "Basic [redacted]"),
        ("a ring bearer walks past basic buildings", "a ring bearer walks past basic buildings"),
        ("key sk-abcdef123456 refused", "key [redacted] refused"),
        ("task-1234567890 stays", "task-1234567890 stays"),
        (
            "/watch/wat_1/content?expires=1&signature=abc-_1 200",
            "/watch/wat_1/content?expires=1&signature=[redacted] 200",
        ),
        ("postgresql://user:pa55@host/db", "postgresql://[redacted]@host/db"),
    ],
)
def test_secrets_are_redacted(text: str, cleaned: str) -> None:
    redactor = Redactor([AMUX_KEY, "longer-one", "longer", "tiny", SECRET])
    assert redactor.clean(text) == cleaned
    assert redactor.clean(cleaned) == cleaned


def test_extra_secrets_are_redacted_in_one_text_only() -> None:
    assert redact("receiver says hunter-22", ["Token hunter-22"]) == "receiver says [redacted]"
    assert redact("receiver says hunter-22") == "receiver says hunter-22"


@given(st.text(min_size=6), st.text(), st.text())
def test_any_secret_is_redacted(secret: str, before: str, after: str) -> None:
    # A secret that is a part of the mark `[redacted]` may remain, because it is not a real secret.
    cleaned = Redactor([secret]).clean(before + secret + after)
    assert secret not in cleaned.replace("[redacted]", "\0")


@pytest.mark.parametrize(
    ("url", "bare"),
    [
        ("https://example.com/hook?token=1#x", "https://example.com/hook"),
        ("https://user:p@ss@example.com:8443/hook", "https://example.com:8443/hook"),
        ("https://example.com/a@b", "https://example.com/a@b"),
        ("https://example.com?token=1", "https://example.com"),
        ("http://[", "http://["),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_urls_lose_query_and_user(url: str, bare: str) -> None:
    assert without_query(url) == bare


# --- logs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.Logger("bridge.polling", logging.DEBUG)  # noqa: LOG001  outside the tree, so that nothing else changes it
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter(Redactor([AMUX_KEY])))
    logger.addHandler(handler)
    yield logger
    handler.close()


def test_a_line_of_the_bridge_has_its_event_and_fields(logger: logging.Logger, stream: io.StringIO) -> None:
    Log(logger).event(
        "task_settled", level=logging.WARNING, task_id="task_1", lag_seconds=0.5, status=TaskStatus.FAILED
    )
    line = json.loads(stream.getvalue())
    at = datetime.fromisoformat(line.pop("at"))
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert line == {
        "level": "warning",
        "event": "task_settled",
        "logger": "polling",
        "task_id": "task_1",
        "lag_seconds": 0.5,
        "status": "failed",
    }
    assert stream.getvalue().count("\n") == 1


def test_at_is_rfc_3339_with_milliseconds(logger: logging.Logger) -> None:
    record = logger.makeRecord("x", logging.INFO, "f", 1, "m", (), None)
    record.created = 1_795_446_245.0
    assert json.loads(JsonFormatter().format(record))["at"] == "2026-11-23T15:04:05.000Z"


def test_an_event_below_the_level_writes_no_line(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.setLevel(logging.INFO)
    Log(logger).event("polled", level=logging.DEBUG)
    assert stream.getvalue() == ""


class Unshowable:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Kind(Enum):
    ONE = 1


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (2**63, "9223372036854775808"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        ("häß 🎬\n", "häß 🎬\n"),
        ("\ud800", "\\ud800"),
        (b"\xff\xc3\xa4", "\\xffä"),
        (Kind.ONE, 1),
        ({1: {b"k": (1, 2)}}, {"1": {"k": [1, 2]}}),
        ({"key": [AMUX_KEY]}, {"key": ["[redacted]"]}),
        ({AMUX_KEY: 1}, {"[redacted]": 1}),
        (ValueError(AMUX_KEY), "[redacted]"),
        (Unshowable(), "<Unshowable that cannot be shown: RuntimeError>"),
    ],
)
def test_any_field_can_be_logged(logger: logging.Logger, stream: io.StringIO, value: object, shown: object) -> None:
    Log(logger).event("seen", field=value)
    assert json.loads(stream.getvalue())["field"] == shown


def test_a_cycle_is_cut(logger: logging.Logger, stream: io.StringIO) -> None:
    Log(logger).event("seen", field=CYCLE)
    assert '"..."' in stream.getvalue()


SCALARS = st.none() | st.text() | st.binary() | st.floats() | st.integers()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(SCALARS, inner)))
def test_anything_becomes_json(value: object) -> None:
    json.dumps(json_value(value), allow_nan=False).encode()


def test_a_field_cannot_replace_a_key_that_every_line_has(logger: logging.Logger, stream: io.StringIO) -> None:
    Log(logger).event("seen", event="mine", at="mine", name="fine", trace=None)
    line = json.loads(stream.getvalue())
    assert (line["event"], line["event_"], line["at_"], line["name"]) == ("seen", "mine", "mine", "fine")


def test_a_traceback_is_one_redacted_field(logger: logging.Logger, stream: io.StringIO) -> None:
    with pytest.raises(ValueError, match="invalid literal") as raised:
        int(AMUX_KEY)
    Log(logger).event("poll_failed", level=logging.ERROR, trace=raised.value)
    [text] = stream.getvalue().splitlines()
    trace = json.loads(text)["trace"]
    assert trace.startswith("Traceback (most recent call last)")
    assert trace.endswith("ValueError: invalid literal for int() with base 10: '[redacted]'")


def test_a_librarys_line_is_a_json_object_too(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.info("GET %s\nwith %s", "/x", AMUX_KEY)
    logger.info("%d", "not a number")
    logger.info("100 % sure")
    lines = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["log"] * 3
    assert lines[0]["message"] == "GET /x\nwith [redacted]"
    assert "not a number" in lines[1]["message"]
    assert lines[2]["message"] == "100 % sure"


def test_the_console_format_escapes_control_characters(logger: logging.Logger, stream: io.StringIO) -> None:
    logger.handlers[0].setFormatter(ConsoleFormatter(Redactor([AMUX_KEY])))
    Log(logger).event("seen", task_id="task_1", said="two words", bad="\x1b[31m\nfake line", key=AMUX_KEY, none=None)
    [text] = stream.getvalue().splitlines()
    assert text[13:].split(" ", 1)[0] == "INFO"
    assert "seen logger=polling task_id=task_1 said=\"two words\" bad='\\x1b[31m\\nfake line' key=[redacted]" in text


async def test_an_error_that_asyncio_reports_is_logged_as_an_event(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    log_loop_errors(loop)
    loop.call_exception_handler({"message": "never retrieved", "exception": ValueError("x"), "future": "f"})
    loop.set_exception_handler(None)
    [record] = caplog.records
    line = json.loads(JsonFormatter().format(record))
    assert (line["event"], line["what"], line["future"]) == ("asyncio_error", "never retrieved", "f")
    assert line["trace"] == "ValueError: x"


EVERYTHING = """
import asyncio, logging, sys, threading, warnings
early = logging.getLogger("library.early")
early.addHandler(logging.StreamHandler(sys.stdout))
early.propagate = False
from bridge.telemetry import REDACTOR, configure_logging, get_logger
for _ in range(2):
    configure_logging("debug", "json")
REDACTOR.add("top-secret")
get_logger("runtime").event("listening", port=8080, said="häß top-secret")
early.warning("from a library\\nin two lines")
logging.getLogger("apscheduler.executors.default").info("Running job")
warnings.warn("careful")
thread = threading.Thread(target=lambda: 1 / 0, name="writer")
thread.start(); thread.join()
class Bad:
    def __del__(self):
        raise ValueError("in a finalizer")
Bad()
async def main():
    asyncio.get_running_loop().create_task(asyncio.sleep(0, 1 / 1)).add_done_callback(lambda task: 1 / 0)
    await asyncio.sleep(0.01)
asyncio.run(main())
raise RuntimeError("the end, top-secret")
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_every_line_of_a_process_is_one_json_object(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERYTHING],
        capture_output=True,
        env={"PYTHONIOENCODING": encoding},
        timeout=60,
        check=False,
    )
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    events = [line["event"] for line in lines if line.get("logger") != "asyncio" or line["level"] == "error"]
    assert events == ["listening", "log", "log", "thread_died", "unraisable_exception", "log", "uncaught_exception"]
    assert lines[0]["said"] == "häß [redacted]"
    assert b"top-secret" not in done.stdout
    assert lines[-1]["trace"].endswith("RuntimeError: the end, [redacted]")
    assert (done.stderr, done.returncode) == (b"", 1)


def test_bidirectional_control_characters_are_escaped() -> None:
    record = logging.makeLogRecord({"name": "bridge.polling", "levelname": "INFO", "msg": "settled"})
    record.__dict__["bridge_fields"] = {"reason": "no\u202eoops \u2066x\u2069 h\xe4\xdf"}
    line = JsonFormatter(Redactor()).format(record)
    assert json.loads(line)["reason"] == "no\\u202eoops \\u2066x\\u2069 h\xe4\xdf"


# --- metrics ------------------------------------------------------------------------------------------------------


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(s.name, tuple(s.labels.values())): s.value for family in families for s in family.samples}


NAMES = """
polls_total polled_tasks_total poll_lag_seconds_bucket poll_seconds_count detection_seconds_sum
settle_to_first_attempt_seconds_bucket
settle_to_delivered_seconds_bucket attempts_total registered_total settled_total active_watches owned_tasks
pending_deliveries dead_deliveries paused_credentials scheduler_tick_age_seconds unknown_status_words_total build_info
stuck_tasks near_deadline_watches failing_receivers store_writable store_size_bytes store_free_bytes
stage_seconds_bucket
stage_seconds_bucket
"""


def test_every_metric_exists_from_the_start() -> None:
    names = {name for name, _ in samples(Metrics())}
    assert not {f"amux_bridge_{name}" for name in NAMES.split()} - names
    assert not [name for name in names if name.endswith("_created")]
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_two_runtimes_have_separate_metrics() -> None:
    one, other = Metrics(), Metrics()
    one.registered.inc()
    assert samples(one)["amux_bridge_registered_total", ()] == 1
    assert samples(other)["amux_bridge_registered_total", ()] == 0


def test_each_stage_has_a_histogram_and_no_other_label() -> None:
    metrics = Metrics()
    metrics.stages.observe(Stage.SEEN, 4.0)
    metrics.stages.observe(Stage.SEEN, -1.0)
    found = samples(metrics)
    assert found["amux_bridge_stage_seconds_count", ("seen",)] == 2
    assert found["amux_bridge_stage_seconds_sum", ("seen",)] == 4.0
    counted = {labels for name, labels in found if name == "amux_bridge_stage_seconds_count"}
    assert counted == {(stage.value,) for stage in Stage}


@given(st.lists(st.floats(0, 100)))
def test_a_histograms_buckets_are_cumulative(values: list[float]) -> None:
    bounds = (0.1, 1.0, 10.0)
    histogram = PlainHistogram("x", "X.", bounds)
    for value in values:
        histogram.observe(value)
    [family] = histogram.collect()
    counts = [sample.value for sample in family.samples if sample.name == "amux_bridge_x_bucket"]
    assert counts == [sum(value <= bound for value in values) for bound in (*bounds, math.inf)]
    assert all(lower <= upper for lower, upper in pairwise(counts))


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (Answered(204), "2xx"),
        (Answered(301), "3xx"),
        (Answered(410), "4xx"),
        (Answered(599), "5xx"),
        (Answered(101), "other"),
        (Answered(999), "other"),
        (NoAnswer("timeout", "slow"), "unanswered"),
        (RefusedTarget("loopback"), "refused"),
    ],
)
def test_attempts_are_counted_by_the_class_of_the_answer(answer: Answer, result: str) -> None:
    metrics = Metrics()
    metrics.count_attempt(answer)
    assert attempt_result(answer) == result
    assert {each: samples(metrics)["amux_bridge_attempts_total", (each,)] for each in ATTEMPT_RESULTS} == {
        each: float(each == result) for each in ATTEMPT_RESULTS
    }


def test_labels_are_bound_and_the_tick_age_is_read_at_each_scrape() -> None:
    metrics = Metrics()
    metrics.settled[Outcome.TIMED_OUT].inc()
    metrics.store_seconds.labels("register").observe(0.002)
    ages = iter([1.5, 2.5])
    metrics.scheduler_tick_age_seconds.set_function(lambda: next(ages))
    found = samples(metrics)
    assert found["amux_bridge_settled_total", ("timed_out",)] == 1
    assert found["amux_bridge_store_seconds_count", ("register",)] == 1
    assert found["amux_bridge_scheduler_tick_age_seconds", ()] == 1.5
    assert samples(metrics)["amux_bridge_scheduler_tick_age_seconds", ()] == 2.5
