"""A stand-in for amux, for the demo, for tests and for development. It keeps everything in memory.

It answers like amux's server, in all of its forms, and it makes errors on request. The request that creates a task
chooses how the task behaves. This folder imports nothing else of the bridge.

Over HTTP, in the create request (`POST /v1/video/generations` or `/v1/videos`, any bearer key):

    {"model": "m", "prompt": "a cat", "sandbox": {"run_seconds": 5, "outcome": "failed", "form": "ABCD",
                                                  "faults": ["html_200", {"kind": "rate_limited", "retry_after": 2}]}}

`Behaviour` and `Fault` name every field. Without `sandbox.outcome` the first word of the prompt chooses the outcome, if
it is `fail`, `cancel`, `expire` or `never`. In a multipart body `sandbox` is a field with the same JSON, or there are
fields such as `sandbox[outcome]=failed`.

A create request is not needed: an unknown id `sandbox_<queue ms>_<run ms>_<outcome>_<anything>`, such as
`sandbox_0_1000_completed_17`, is a task that begins at its first poll.

In code:

    sandbox = Sandbox()
    base_url = await sandbox.start()
    task_id = sandbox.create_task(Behaviour(outcome=Outcome.FAILED, faults=(Fault(FaultKind.RESET),)))
    await sandbox.polled(task_id, times=3)
    await sandbox.stop()

The answers of a task without a platform follow its behaviour, poll by poll. A task with a platform behaves as on the
real server:

- A recorded task answers with form C, from a row that changes only in amux's sweep:
  `Behaviour(platform=Platform.KLING)`, over HTTP `"platform": 50` or `"kling"`, or an id
  `sandbox50_0_1000_completed_17`. ALI is 17, MINIMAX 35, VIDU 52, SORA 55. `Sandbox(sweep_seconds=0.15)` makes a faster
  sweep: 0.15 s is its pause, and each task takes a 15th of the pause, or `sweep_task_seconds`.
- A live task (GEMINI 24, VERTEX 41, DOUBAO 54) answers with form B, and each GET is a vendor request, which
  `sandbox.vendor_requests[task_id]` counts.
- `vendor_answers=(VendorAnswer.SOFT_FAILURE,)` makes a live task seem to fail: it is `failed`, then `processing`. Until
  the next GET amux's own row has FAILURE too, also on the batch route.
- `VendorAnswer.UNREACHABLE` in `vendor_answers` makes a live task answer with form C, as if its vendor did not answer.
  `sandbox.vendor_outage` does this for all tasks, also in the sweep.
- `VendorAnswer.ERROR`, in the same places, is a vendor's 429 or 500. In the sweep it makes Sora's task fail. Kling's
  task does not change.
- `forget_seconds=60` makes a live success `processing` later, still with its URL.
- `amux_timeout_seconds=3600` is amux's own time-out, with the reason in `url`. A live GET removes the time-out again.
- Doubao with the outcome `cancelled` or `expired` stays IN_PROGRESS.
- `url=None` is a success without a vendor's URL.

The batch route `POST /suno/fetch` returns the records of tasks with a platform. Tasks without a platform have no record
and are missing, unless `Sandbox(batch=BatchMode.ALL)` is used. FILTERED, NOT_FOUND and HTML are deployments without the
route. `sandbox.batches` counts requests and ids. `sandbox.batch_fault = Fault(GatewayFault.CPU_OVERLOADED)` makes it
answer 503; it answers 500 to more than `batch_max_ids` ids.

`content_bytes=1 << 30` makes a large video. The content route closes the connection after
`Sandbox(content_seconds=60)`, so that a slow reader loses the end: `await sandbox.contents.reached("broken_off")`.

Faults of a key: `sandbox.key_faults[key] = Fault(GatewayFault.DEAD_CHANNEL, status=403)`, or USER_DELETED, or any
FaultKind. Over HTTP the name of the key chooses the fault: `sandbox-fault-dead_channel`. With `Sandbox(dashboard=True)`
a wrong base URL gets pages, 301 and, after 60 requests, an empty 429; `sandbox.limited_paths` counts the 429s.

`sandbox.polled(task_id, times)` waits for single reads, `sandbox.batches.read.reached(task_id, times)` waits for reads
of the batch route.

Fields about the account and the prompt contain `PRIVATE_MARK` or are one of `PRIVATE_NUMBERS`. A test searches for them
in everything that leaves the bridge.
"""

from bridge.sandbox.batch import BatchCall, Batches, BatchMode
from bridge.sandbox.behaviour import (
    Behaviour,
    BehaviourError,
    Fault,
    FaultKind,
    GatewayFault,
    Outcome,
    Platform,
    VendorAnswer,
)
from bridge.sandbox.forms import PRIVATE_MARK, PRIVATE_NUMBERS
from bridge.sandbox.server import CreateCall, Sandbox

__all__ = [
    "PRIVATE_MARK",
    "PRIVATE_NUMBERS",
    "BatchCall",
    "BatchMode",
    "Batches",
    "Behaviour",
    "BehaviourError",
    "CreateCall",
    "Fault",
    "FaultKind",
    "GatewayFault",
    "Outcome",
    "Platform",
    "Sandbox",
    "VendorAnswer",
]
