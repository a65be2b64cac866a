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
