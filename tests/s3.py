"""An S3 server on loopback, in a process of its own, and the environment that leads every client to it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import boto3
import fsspec
import pytest

BUCKET = "runs"


class Store:
    """A server that runs."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self._process = process

    def plan(self, fault: Literal["refuse", "delay"], seconds: float, changes: int = 0) -> None:
        """Let it refuse everything, or be late once, for so many seconds, when it has been changed so often."""
        assert self._process.stdin
        self._process.stdin.write(f"{fault} {seconds} {changes}\n")
        self._process.stdin.flush()


@contextmanager
def s3_server(log: Path, slow_s: float = 0, failing: float = 0) -> Iterator[Store]:
    """A server with an empty bucket, to which boto3, s3fs and pyarrow, and so Ray, speak in this environment.

    Args:
        log: for what it says.
        slow_s: seconds that an answer is late by, at most.
        failing: share of requests that are refused as if it were busy.
    """
    command = [sys.executable, "-m", "tests.s3_server", "--slow", str(slow_s), "--failing", str(failing)]
    with log.open("w") as said, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip
        try:
            assert server.stdout
            port = next(line for line in server.stdout if line.startswith("port ")).split()[1]
            environment = {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "test",
                "AWS_SECRET_ACCESS_KEY": "test",  # not a secret: moto takes any
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_EC2_METADATA_DISABLED": "true",
            }
            for name, value in environment.items():
                patch.setenv(name, value)
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another server
            yield Store(server)
        finally:
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            server.kill()
            server.wait()
