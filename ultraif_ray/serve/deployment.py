"""The application on Ray Serve: each replica of a pool holds an engine, and a front before them has the routes.

A front reaches an engine through a handle of Serve's, which picks a replica that has room. A request whose replica dies
is asked once more of another, unless a piece of its answer was shown already.
"""

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import contextmanager
from typing import Any, NoReturn

from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.config import BackpressureConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from ultraif_ray.engine.opening import open_engines
from ultraif_ray.engine.protocol import Delta, Engine, Reply, Request, estimate_tokens
from ultraif_ray.errors import EngineBusy, EngineDead, EngineError, EngineUnavailable, RecipeError, UltraIFError
from ultraif_ray.flow.placement import Operator, actor_options, spreads
from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import Recipe, Replicas
from ultraif_ray.serve.app import Service, create_app
from ultraif_ray.serve.guard import RETRY_AFTER_S, Door
from ultraif_ray.serve.served import adapters_served

HEALTH_S = 2.0
"""Seconds between two looks of Serve's at a replica: one that died is missed so soon, and another started."""

TARGET = 0.75
"""Of the requests that a replica may have at once, how many it has on average before Serve adds another."""


# ---- an engine in a replica ------------------------------------------------------------------------------------------


class EngineReplica:
    """One replica of a pool. Errors of the engine are answers, so that they come to the front as they are."""

    async def __init__(self, recipe: Recipe, pool: str):  # type: ignore[misc]  # Serve awaits it
        self._timeout_s: float | None = None
        self._open, self._heard = 0, 0.0
        self._fault: UltraIFError | None = None
        try:
            engines = await open_engines(recipe, (pool,), (*STAGES, "judge"), adapters_served(recipe, pool))
            self._engine: Engine = engines[pool]
        except RecipeError as fault:  # kept to be told: of a constructor that raises, only the traceback comes back
            self._fault = fault
        else:
            self._timeout_s = self._engine.timeout_s

    async def fault(self) -> str:
        """Why this replica cannot work, whatever it is asked; empty where it can."""
        return str(self._fault or "")

    async def generate(self, request: Request) -> Reply | EngineError:
        """See `Engine.generate`."""
        with self._asked():
            try:
                reply = await self._engine.generate(request)
            except EngineDead as error:
                _leave(error)
            except EngineError as error:
                return error
            self._heard = time.monotonic()
            return reply

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply | EngineError, None]:
        """See `Engine.stream`."""
        with self._asked():
            try:
                async for piece in self._engine.stream(request):
                    self._heard = time.monotonic()
                    yield piece
            except EngineDead as error:
                _leave(error)
            except EngineError as error:
                yield error

    def check_health(self) -> None:
        """Leave where the engine hangs: requests are open, and none got a token in the engine's time.

        Raises:
            RecipeError: it could not be opened, and cannot be.
        """
        if self._fault:
            raise self._fault
        silent = time.monotonic() - self._heard
        if self._open and self._timeout_s and silent > self._timeout_s:
            _leave(EngineDead(f"no answer in {silent:.0f} s"))

    async def __del__(self) -> None:
        """Free what the engine holds."""
        if not self._fault:
            await self._engine.close()

    @contextmanager
    def _asked(self) -> Any:
        if not self._open:
            self._heard = time.monotonic()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1


def _leave(error: EngineDead) -> NoReturn:
    """End this process: Serve starts another, and no request more comes to a dead engine."""
    print(f"replica {os.getpid()}: {error}; leaving", file=sys.stderr, flush=True)
    for child in multiprocessing.active_children():  # an engine that hangs would keep its memory
        child.kill()
    os._exit(1)


# ---- the front -------------------------------------------------------------------------------------------------------


class HandleEngine:
    """An engine that is somewhere in the cluster."""

    timeout_s = None  # a request has the service's time, and a replica looks after its engine

    def __init__(self, handle: DeploymentHandle):
        self._whole = handle.generate
        self._pieces = handle.stream.options(stream=True)

    async def generate(self, request: Request) -> Reply:
        """See `Engine.generate`."""
        for last_try in (False, True):
            response = self._whole.remote(request)
            try:
                answer = await response
            except asyncio.CancelledError:
                response.cancel()
                raise
            except (RayError, RayServeException) as error:
                _raise_unless_lost(error, last_try)
                continue
            if isinstance(answer, EngineError):
                raise answer
            reply: Reply = answer
            return reply
        raise AssertionError  # the last try returns or raises

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        """See `Engine.stream`."""
        for last_try in (False, True):
            response, begun = self._pieces.remote(request), False
            try:
                async for piece in response:
                    if isinstance(piece, EngineError):
                        raise piece
                    begun = True
                    yield piece
                return
            except (asyncio.CancelledError, GeneratorExit):
                response.cancel()
                raise
            except EngineError:
                raise
            except (RayError, RayServeException) as error:
                _raise_unless_lost(error, last_try or begun)

    def count_tokens(self, text: str) -> int:
        """See `Engine.count_tokens`."""
        return estimate_tokens(text)

    async def check(self, labels: tuple[str, ...], schema: bool) -> None:
        """A replica has checked its engine."""

    async def close(self) -> None:
        """A replica closes its engine."""


def _raise_unless_lost(error: RayError | RayServeException, last_try: bool) -> None:
    """Let pass that a replica was lost, where there is a try left.

    Raises:
        EngineBusy: the queue before the replicas is full.
        EngineUnavailable: the replica was lost, and this was the last try.
    """
    if isinstance(error, BackPressureError):
        raise EngineBusy(str(error)) from None
    if isinstance(error, RayTaskError):  # a fault of ours
        raise error
    if last_try:
        raise EngineUnavailable("its replica was lost") from error


class Front:
    """One copy of the front: the application of `app.py`, with its engines behind handles."""

    def __init__(self, recipe: Recipe, handles: dict[str, DeploymentHandle], door: Door, started: int):
        self._handles = handles
        engines: dict[str, Engine] = {name: HandleEngine(handle) for name, handle in handles.items()}
        self._service = Service(recipe, engines, door, self._loading, started)

    def _loading(self) -> list[str]:
        return [name for name, handle in self._handles.items() if not handle.running_replicas_populated()]

    def __serve_build_asgi_app__(self) -> Any:
        """Asked by Serve for the application once this copy is made."""
        return create_app(self._service)


# ---- the application -------------------------------------------------------------------------------------------------


def application(recipe: Recipe, door: Door) -> Any:
    """The application for `ray.serve.run`.

    Raises:
        RecipeError: a pool that cannot be served.
    """
    limits = recipe.serve
    engines = {}
    for name, pool in recipe.pools.items():
        if spreads(pool):
            raise RecipeError(
                f"pools.{name} spreads an engine over nodes (distributed_executor_backend: ray), which is not served: "
                "keep its GPUs on one node"
            )
        engines[name] = _deployment(
            EngineReplica,
            f"engine-{name}",
            pool.replicas,
            limits.max_ongoing,
            graceful_shutdown_timeout_s=limits.timeout_s,  # one that is not needed any more ends what it has begun
            ray_actor_options=actor_options(recipe, Operator((), (name,)), []),
        ).bind(recipe, name)
    front = _deployment(
        serve.ingress()(Front),
        "front",
        limits.replicas,
        # More than the front answers, so that its own sentence is what a client gets when all is full.
        2 * limits.max_open,
        max_queued_requests=limits.max_open,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY_AFTER_S),
        ray_actor_options={"num_cpus": FRONT_CPUS},
    )
    return front.bind(recipe, engines, door, int(time.time()))


FRONT_CPUS = 0.1
"""Logical CPUs of a copy of the front, which mostly waits."""


def _deployment(cls: Callable[..., Any], name: str, replicas: Replicas, at_once: int, **options: Any) -> Any:
    scaling: dict[str, Any] = {"num_replicas": replicas.min}
    if replicas.min < replicas.max:
        bounds = {"min_replicas": replicas.min, "max_replicas": replicas.max}
        scaling = {"autoscaling_config": bounds | {"target_ongoing_requests": TARGET * at_once}}
    return serve.deployment(
        cls,
        name=name,
        max_ongoing_requests=at_once,
        health_check_period_s=HEALTH_S,
        logging_config={"encoding": "JSON", "enable_access_log": False},  # the guard's log has what is worth a line
        **scaling,
        **options,
    )


def build(args: dict[str, Any]) -> Any:
    """The application for a config file of Serve's (`import_path`), as KubeRay takes it.

    Args:
        args: `target`, a run or a model; `overrides`, a list of `section.key=value`. The token is taken from the
            environment, and must be there: who starts Serve says where it listens.

    Raises:
        UltraIFError: with what to change.
    """
    from ultraif_ray.serve.command import door_of
    from ultraif_ray.serve.served import recipe_of_service

    unknown = sorted(args.keys() - {"target", "overrides"})
    if unknown or not args.get("target"):
        raise RecipeError(f"args are target and overrides; target is {args.get('target')!r}, unknown: {unknown}")
    return application(recipe_of_service(args["target"], args.get("overrides", [])), door_of(None, "0.0.0.0"))  # noqa: S104
