"""A stand-in for amux, for the demo, for tests and for development. It keeps everything in memory.

It answers as amux's server does, in every form that a task may have from poll to poll, and it makes errors on request.
The request that creates a task chooses how the task behaves. This folder imports nothing else of the bridge.

Over HTTP, in the create request (`POST /v1/video/generations` or `/v1/videos`, any bearer key):

    {"model": "m", "prompt": "a cat", "sandbox": {"run_seconds": 5, "outcome": "failed", "form": "ABCD",
                                                  "faults": ["html_200", {"kind": "rate_limited", "retry_after": 2}]}}

`Behaviour` and `Fault` name every field. Without `sandbox.outcome` a prompt whose first word is `fail`, `cancel`,
`expire` or `never` chooses the outcome. In a multipart body `sandbox` is a field that holds the same JSON, or
`sandbox[outcome]=failed` and the like.

A create request is not needed: an unknown id `sandbox_<queue ms>_<run ms>_<outcome>_<anything>`, such as
`sandbox_0_1000_completed_17`, is a task that begins at its first poll.

In code:

    sandbox = Sandbox()
    base_url = await sandbox.start()
    task_id = sandbox.create_task(Behaviour(outcome=Outcome.FAILED, faults=(Fault(FaultKind.RESET),)))
    await sandbox.polled(task_id, times=3)
    await sandbox.stop()

A task is scripted, poll by poll, unless it has a platform. A task with a platform behaves as on the real server:

- A recorded task answers with form C, from a row that changes only in amux's sweep:
  `Behaviour(platform=Platform.KLING)`, over HTTP `"platform": 50` or `"kling"`, or an id
  `sandbox50_0_1000_completed_17`. ALI is 17, MINIMAX 35, VIDU 52, SORA 55. `Sandbox(sweep_seconds=0.15)` is a faster
  sweep: this is its pause; a task takes a 15th of it, or `sweep_task_seconds`.
- A live task (GEMINI 24, VERTEX 41, DOUBAO 54) answers with form B, and each GET is a vendor request, which
  `sandbox.vendor_requests[task_id]` counts.
- A live failure that is none (`failed`, then `processing`): `vendor_answers=(VendorAnswer.SOFT_FAILURE,)`. Until the
  next GET amux's own row says FAILURE too, also on the batch route.
- A live task's form C, because its vendor cannot be asked: `VendorAnswer.UNREACHABLE` in `vendor_answers`, or
  `sandbox.vendor_outage` for all tasks, in the sweep as well.
- A vendor's 429 or 500: `VendorAnswer.ERROR`, likewise. In the sweep Sora's task fails by it, and Kling's stays as it
  is.
- A live success that is `processing` later, with its URL: `forget_seconds=60`.
- amux's own time-out, which a live GET takes back, with the reason in `url`: `amux_timeout_seconds=3600`.
- A task that stays IN_PROGRESS because its vendor gave it up: Doubao with the outcome `cancelled` or `expired`.
- A success without a vendor's URL: `url=None`.

The batch route `POST /suno/fetch` gives the records of tasks with a platform; scripted tasks have none and are
missing (`Sandbox(batch=BatchMode.ALL)` gives them too). FILTERED, NOT_FOUND and HTML are deployments without the
route. `sandbox.batches` counts requests and ids. `sandbox.batch_fault = Fault(GatewayFault.CPU_OVERLOADED)` is its
503, and more than `batch_max_ids` ids are a 500.

A large video is `content_bytes=1 << 30`. The content route breaks off after `Sandbox(content_seconds=60)`, so that a
slow reader loses the end: `await sandbox.contents.reached("broken_off")`.

A key is in trouble by `sandbox.key_faults[key] = Fault(GatewayFault.DEAD_CHANNEL, status=403)`, or USER_DELETED, or
any FaultKind; over HTTP by its name, `sandbox-fault-dead_channel`. A wrong base URL shows pages, 301 and, after 60
requests, an empty 429 with `Sandbox(dashboard=True)`; `sandbox.limited_paths` counts the latter.

`sandbox.polled(task_id, times)` waits for single reads, `sandbox.batches.read.reached(task_id, times)` for those of
the batch route.

Fields about the account and the prompt hold `PRIVATE_MARK` or are one of `PRIVATE_NUMBERS`: a test searches for them in
everything that leaves the bridge.
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
