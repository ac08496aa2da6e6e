"""An S3 server on loopback (moto) as a program of its own: `python -m tests.s3_server [--slow S] [--failing SHARE]`.

Prints its port, and ends with its standard input. A line there is a fault to come: `refuse` or `delay`, for how many
seconds, and at which change of what it holds, from now on: `refuse 20 0` is down at once, for 20 s.
"""

import argparse
import random
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Unreliable:
    """An application of WSGI that answers late, and to some requests only that it is busy.

    Args:
        app: what answers the others.
        slow_s: seconds that an answer is late by, at most.
        failing: share of requests that are refused.
    """

    def __init__(self, app: Any, slow_s: float, failing: float):
        self._app, self._slow_s, self._failing = app, slow_s, failing
        self._lock = threading.Lock()
        self._down_until, self._fault, self._seconds, self._changes = 0.0, "", 0.0, 0

    def plan(self, fault: str, seconds: float, changes: int) -> None:
        """Let a fault come at a change: the one after so many."""
        with self._lock:
            self._fault, self._seconds, self._changes = fault, seconds, changes
            if not changes:
                self._begin()

    def _begin(self) -> float:
        """Begin the fault that was planned; the seconds that this request waits."""
        fault, self._fault = self._fault, ""
        if fault == "refuse":
            self._down_until = time.monotonic() + self._seconds
        return self._seconds if fault == "delay" else 0.0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        late = random.uniform(0, self._slow_s)
        if environ["REQUEST_METHOD"] in ("PUT", "POST", "DELETE"):
            with self._lock:
                self._changes -= 1
                late += self._begin() if self._fault and self._changes <= 0 else 0
        time.sleep(late)
        if time.monotonic() >= self._down_until and random.random() >= self._failing:
            answer: Iterable[bytes] = self._app(environ, start_response)
            return answer
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))  # else it would be the next request
        start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
        return [BUSY]


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", type=float, default=0)
    parser.add_argument("--failing", type=float, default=0)
    options = parser.parse_args()
    app = Unreliable(DomainDispatcherApplication(create_backend_app), options.slow, options.failing)
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("port", server.server_port, flush=True)
    for line in sys.stdin:
        fault, seconds, changes = line.split()
        app.plan(fault, float(seconds), int(changes))


if __name__ == "__main__":
    main()
