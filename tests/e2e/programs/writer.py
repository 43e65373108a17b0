"""An agent that appends for as long as it lives, and tells a witness of every answer.

An append that failed is sent again under the same key until it is acknowledged. The times are of a clock
that all pods of a node share.
"""

import http.client
import json
import os
import signal
import time
import uuid
from typing import Any

from sidecar_client import Refused, Session

PAUSE = float(os.environ["PAUSE"])
SESSION = Session(os.environ.get("MEMORY", "support"), "shared", timeout=5)


def main() -> None:
    life = f"{os.environ['POD_NAME']}.{uuid.uuid4().hex[:8]}"
    number = 0
    while True:
        key = f"{life}.{number}"
        begun = time.monotonic()
        seq, failures = acknowledged(key)
        end = time.monotonic()
        tell({"key": key, "seq": seq, "begun": begun, "end": end, "failures": failures})
        number += 1
        time.sleep(PAUSE)


def acknowledged(key: str) -> tuple[int, list[str]]:
    """Append until it is acknowledged; returns the place in the log, and what went wrong before."""
    failures: list[str] = []
    while True:
        try:
            answer = SESSION.append({"role": "user", "content": key}, key=key)
        except Refused as refused:
            failures.append(str(refused))
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{type(error).__name__}: {error}")
        else:
            return answer["seq"], failures
        time.sleep(0.1)


def tell(what: dict[str, Any]) -> None:
    while True:
        try:
            connection = http.client.HTTPConnection("witness", 8080, timeout=5)
            connection.request("POST", "/", json.dumps(what))
            if connection.getresponse().status == http.client.NO_CONTENT:
                return
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
        finally:
            connection.close()


def end(*_: object) -> None:
    raise SystemExit


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)  # process 1 has no default
    main()
