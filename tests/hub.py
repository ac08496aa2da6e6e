"""The Hugging Face Hub, as far as asking for a model goes: a server here that gates one and does not know another."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401 if "/org/gated" in self.path or "/org/none" in self.path else 200)
        if "/org/gated" in self.path:
            self.send_header("X-Error-Code", "GatedRepo")
        elif "/org/none" in self.path:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub's own client asks this server, which gates `org/gated` and has no `org/none`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
