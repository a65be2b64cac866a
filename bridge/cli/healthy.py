"""`healthy`: asks a running bridge whether it is ready. Probes run it every few seconds, so it must be fast."""

import http.client
import sys
from argparse import Namespace
from typing import Final
from urllib.parse import urlsplit

from bridge.cli.errors import FAILED, CommandFailed
from bridge.cli.terminal import printable
from bridge.core.errors import BadSetting
from bridge.settings.client import load_client

TIMEOUT_SECONDS: Final = 4.0  # /readyz answers within 2 s, also when the store does not
_MAX_SHOWN: Final = 500  # characters of an answer


def run(args: Namespace) -> int:
    """Prints the bridge's answer. Returns 0 for a 200, else 1.

    Raises CommandFailed if the bridge does not answer, and for a bad setting. Other commands exit with 2 for a bad
    setting, but Docker's health checks reserve this code.
    """
    try:
        url = load_client().url
    except BadSetting as error:
        raise CommandFailed(str(error)) from None
    status, body = _get(url, "/healthz" if args.alive else "/readyz")
    sys.stdout.write(printable(body[:_MAX_SHOWN]) + "\n")
    return 0 if status == http.HTTPStatus.OK else FAILED


def _get(base_url: str, path: str) -> tuple[int, str]:
    """Sends one request, without a proxy, and returns the answer's status and the first 500 characters of its body.

    Follows no redirect. Raises CommandFailed if there is no answer.
    """
    parts = urlsplit(base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path + path, headers={"Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read(_MAX_SHOWN).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CommandFailed(f"the bridge at {base_url} does not answer: {reason.lower()}") from None
    finally:
        connection.close()
