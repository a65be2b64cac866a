"""The process that runs apprise. It reads `{"urls", "messages"}` from stdin.

The process writes a list to stdout: for each URL, whether it could be used. Without messages it only parses the URLs.
It writes nothing else, because the log lines of apprise may contain parts of a URL.
"""

import json
import logging
import sys
from typing import Any

TITLE = "amux bridge"


def send(urls: list[str], messages: list[str]) -> list[bool]:
    """Sends the messages as one text to each URL. Returns for each URL whether that succeeded.

    Without messages it sends nothing, and returns for each URL whether apprise knows it.
    """
    import apprise

    results = []
    for url in urls:
        one = apprise.Apprise()
        known = one.add(url)
        sent = not messages or (known and _notify(one, "\n".join(messages)))
        results.append(bool(known and sent))
    return results


def _notify(one: Any, body: str) -> bool:
    import apprise

    try:
        return bool(one.notify(body=body, title=TITLE, body_format=apprise.NotifyFormat.TEXT))
    except Exception:  # noqa: BLE001  a plugin's error is a failure like any other, and its text may contain the URL
        return False


def main() -> None:
    """Reads stdin, sends, and writes the results."""
    logging.disable(logging.CRITICAL)
    given = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr  # a plugin that prints must not change the results
    json.dump(send(given["urls"], given["messages"]), out)


if __name__ == "__main__":
    main()
