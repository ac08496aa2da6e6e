"""An S3 server on loopback (moto), in a process of its own, and the environment that leads every client to it."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

BUCKET = "runs"

_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print("port", server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server(log: Path) -> Iterator[dict[str, str]]:
    """A server with an empty bucket: the environment in which boto3, s3fs and pyarrow, and so Ray, speak to it."""
    with log.open("w") as said:
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
        )
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
            boto3.client(
                "s3", endpoint_url=environment["AWS_ENDPOINT_URL"], region_name="us-east-1",
                aws_access_key_id="test", aws_secret_access_key="test",  # noqa: S106
            ).create_bucket(Bucket=BUCKET)  # fmt: skip
            yield environment
        finally:
            server.kill()
            server.wait()
