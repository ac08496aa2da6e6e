"""The service: a run's models, or one model, behind HTTP, until the job is stopped.

ray job submit --working-dir . -- python jobs/serve.py --target s3://BUCKET/runs/NAME --host 0.0.0.0
"""

from typing import Annotated

import typer

from ultraif_ray.cli import report_errors
from ultraif_ray.serve.command import serve_models


def serve(
    target: Annotated[str, typer.Option(help="The folder of a run, or a model.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; beyond the head only with a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port.")] = 8000,
    token_file: Annotated[str | None, typer.Option(help="Holds the bearer token [$ULTRAIF_SERVE_TOKEN].")] = None,
) -> None:
    """Serve until the job is stopped."""
    serve_models(target, overrides or (), host=host, port=port, token_file=token_file, worker_logs=True)


if __name__ == "__main__":
    report_errors(lambda: typer.run(serve))
