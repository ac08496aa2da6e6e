"""The Hugging Face Hub, as far as it is asked: servers that gate a model, do not know another, or have a dataset."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

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
    with _serving(_Hub) as endpoint:
        monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield


@contextmanager
def dataset_hub(name: str, files: dict[str, str]) -> Iterator[str]:
    """A hub that has one dataset; its address, for HF_ENDPOINT."""
    with _serving(type("_", (_DatasetHub,), {"name": name, "files": files})) as endpoint:
        yield endpoint


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


_COMMIT = "c0ffee" + "0" * 34


class _DatasetHub(BaseHTTPRequestHandler):
    name: str
    files: dict[str, str]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(rf"/datasets/{self.name}/resolve/\w+/(.+)", path):
            self._answer(self.files[found[1]].encode() if found[1] in self.files else None)
        elif re.fullmatch(rf"/api/datasets/{self.name}(/revision/\w+)?", path):
            siblings = [{"rfilename": file, "blobId": self._hash(file)} for file in self.files]
            self._answer({"id": self.name, "sha": _COMMIT, "siblings": siblings})
        elif found := re.fullmatch(rf"/api/datasets/{self.name}/tree/\w+(/.+)?", path):
            folder = (found[1] or "").strip("/")
            self._answer([self._entry(file) for file in self.files if file.startswith(folder)])
        else:
            self._answer(None)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            paths = json.loads(asked)["paths"]
        except ValueError:
            paths = parse_qs(asked).get("paths", [])
        folders = {file.rsplit("/", 1)[0] for file in self.files if "/" in file}
        found = [self._entry(path) for path in paths if path in self.files]
        self._answer([*found, *({"type": "directory", "oid": "0", "path": path} for path in paths if path in folders)])

    def _entry(self, file: str) -> dict[str, Any]:
        return {"type": "file", "oid": self._hash(file), "size": len(self.files[file].encode()), "path": file}

    def _hash(self, file: str) -> str:
        return hashlib.sha256(self.files[file].encode()).hexdigest()[:40]

    def _answer(self, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(404 if content is None else 200)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", _COMMIT)
        self.send_header("ETag", hashlib.sha256(body).hexdigest())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
