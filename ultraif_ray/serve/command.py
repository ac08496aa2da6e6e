"""`ultraif serve`: put a run's models, or one model, up on this machine or the cluster, and stay until Ctrl-C."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultraif_ray.engine.models import check_access
from ultraif_ray.errors import RecipeError, RunError
from ultraif_ray.recipe import Recipe, VllmPool
from ultraif_ray.serve.guard import LOOPBACK, Door, hashed
from ultraif_ray.serve.served import models_of, recipe_of_service, shown_name

if TYPE_CHECKING:
    from ultraif_ray.flow.cluster import Need

TOKEN = "ULTRAIF_SERVE_TOKEN"  # noqa: S105 - the name of a variable
"""The environment variable that holds the bearer token."""


def serve_models(
    target: str,
    overrides: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | None = None,
    worker_logs: bool = False,
) -> None:
    """Serve until this process is interrupted or terminated.

    Args:
        target: the folder of a run; or a model, as a recipe names one.
        overrides: `section.key=value` over the recipe.
        host: where to listen; beyond this machine only with a token.
        port: the port; 0 for any that is free.
        token_file: a file that holds the bearer token, in the place of the environment variable.
        worker_logs: show what the replicas log, the access log among it.

    Raises:
        UltraIFError: with what to change.
    """
    import ray
    from ray import serve

    from ultraif_ray.flow import cluster
    from ultraif_ray.serve.deployment import application

    door, recipe, port = door_of(token_file, host), recipe_of_service(target, overrides), _free_port(host, port)
    made = application(recipe, door)
    for name, pool in recipe.pools.items():
        if isinstance(pool, VllmPool):
            check_access(f"pools.{name}.model", pool.model)
    print(f"starting {_said(recipe)}", file=sys.stderr, flush=True)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    was_up = ray.is_initialized()
    cluster.connect(worker_logs)
    if serve.status().proxies:
        raise RunError("Ray Serve runs on this cluster already, at an address of its own: end what it serves first")
    try:
        cluster.await_room(lambda found: cluster.check_needs(needs(recipe), found))
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        _deploy(made, recipe)
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        said = f"serving at {address}, for OpenAI's clients at {address}/v1; Ctrl-C ends it"
        print(said, file=sys.stderr, flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:  # SIGTERM ends it too: Ray exits the process, by way of what follows
        pass
    finally:
        print("stopping", file=sys.stderr, flush=True)
        serve.shutdown()
        if not was_up:
            ray.shutdown()


def _deploy(made: Any, recipe: Recipe) -> None:
    """Start the application, and wait until its engines are there.

    Raises:
        RecipeError: what an engine says that cannot be opened.
        RunError: it did not come up.
    """
    from ray import serve

    try:
        serve.run(made, name=recipe.name, route_prefix="/")
    except RuntimeError as error:  # its text is the traceback of a replica
        raise RunError("the service did not come up; --worker-logs shows what its engines say") from error
    for name in recipe.pools:
        if fault := serve.get_deployment_handle(f"engine-{name}", recipe.name).fault.remote().result():
            raise RecipeError(fault)


def needs(recipe: Recipe) -> "list[Need]":
    """What a service asks of the cluster, with the fewest replicas."""
    from ultraif_ray.flow.cluster import Need
    from ultraif_ray.flow.placement import ADVICE

    return [
        Need(f"a replica of pool '{name}'", pool.replicas.min, pool.asked | pool.accelerator, pool.labels, ADVICE)
        for name, pool in recipe.pools.items()
    ]


def door_of(token_file: str | None, host: str) -> Door:
    """Who may come in to a service that listens at `host`: whoever has the token; without one, this machine alone.

    Raises:
        RecipeError: the file cannot be read or holds none, or a service beyond this machine would have none.
    """
    token = os.environ.get(TOKEN, "").strip()
    if token_file:
        try:
            token = Path(token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{token_file}: the token cannot be read: {error}") from None
        if not token:
            raise RecipeError(f"{token_file} holds no token: write one into it, such as `openssl rand -hex 32` makes")
    if token:
        return Door(hashed(token.encode()))
    if host not in LOOPBACK and not host.startswith("127."):
        raise RecipeError(
            f"the service would listen at {host}, beyond this machine, and let everybody in: give it a token, in "
            f"{TOKEN} or with --token-file FILE; or leave --host out, and reach it through a tunnel"
        )
    return Door(hosts=LOOPBACK | {host})


def _free_port(host: str, port: int) -> int:
    """The port, or for 0 any that is free.

    Raises:
        RecipeError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            raise RecipeError(f"port {port} of {host} cannot be had ({error}): give another with --port") from None
        return int(probe.getsockname()[1])


def _said(recipe: Recipe) -> str:
    """What is served, in a line."""
    models = models_of(recipe)
    composer = "trained" if recipe.roles.composer.trained else "prompted"
    return (
        f"{recipe.name} ({shown_name(recipe, models['responder'])}), composer {shown_name(recipe, models['composer'])} "
        f"({composer}), judge {shown_name(recipe, models['judge'])} ({recipe.synthesize.judge})"
    )
