"""The servers that tell a cloud's machine about itself, as far as spot notices go, on loopback."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

TOKEN = "token-of-a-minute"  # noqa: S105 - of a server that is not there


class Metadata:
    """Amazon's and Google's at one address. Both refuse who does not ask in their way."""

    def __init__(self) -> None:
        self.taken_at: datetime | None = None
        """When the machine is taken back; None without a notice."""
        self.failing = 0
        """So many of the next requests fail."""
        self.asked = 0
        """Times that somebody looked for a notice."""

    def give_notice(self, seconds: float) -> None:
        self.taken_at = datetime.now(UTC) + timedelta(seconds=seconds)

    def answer(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        if self.failing:
            self.failing -= 1
            return 500, ""
        match method, path:
            case "PUT", "/latest/api/token":
                return (200, TOKEN) if "x-aws-ec2-metadata-token-ttl-seconds" in headers else (400, "")
            case "GET", "/latest/meta-data/spot/instance-action":
                if headers.get("x-aws-ec2-metadata-token") != TOKEN:
                    return 401, ""
                self.asked += 1
                at = self.taken_at and self.taken_at.strftime("%Y-%m-%dT%H:%M:%SZ")
                return (200, json.dumps({"action": "terminate", "time": at})) if at else (404, "")
            case "GET", "/computeMetadata/v1/instance/preempted":
                if headers.get("metadata-flavor") != "Google":
                    return 403, ""
                self.asked += 1
                return 200, "TRUE" if self.taken_at else "FALSE"
        return 404, ""


@contextmanager
def metadata_server(environment: dict[str, str] | None = None) -> Iterator[Metadata]:
    """A server to which an environment, by default this process's, leads."""
    state = Metadata()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = state.answer(self.command, self.path, {k.lower(): v for k, v in self.headers.items()})
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    variables = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{host}/", "GCE_METADATA_HOST": host}
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items() if environment is None else ():
                patch.setenv(name, value)
            if environment is not None:
                environment.update(variables)
            yield state
    finally:
        server.shutdown()
        server.server_close()
