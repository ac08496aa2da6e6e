"""The service as an ASGI application: its routes, over engines. Nothing of Ray is in it, so a test runs it as it is."""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from ultraif_ray.engine.protocol import Engine, Reply, RoleClient
from ultraif_ray.errors import RequestRefused, UnusableReply
from ultraif_ray.method.checkers.naming import enabled
from ultraif_ray.method.decompose import decompose
from ultraif_ray.method.journey import drawn, with_one_more
from ultraif_ray.method.verdicts import check_and_judge
from ultraif_ray.recipe import Recipe, Serve
from ultraif_ray.records import Instruction, Prompt, Turn, prompt_id
from ultraif_ray.records import Response as Answered
from ultraif_ray.serve import page
from ultraif_ray.serve.chat import event, events_of, reply_of, request_of
from ultraif_ray.serve.contract import (
    Addition,
    Batch,
    Case,
    ChatReply,
    ChatRequest,
    Composed,
    ComposeRequest,
    ComposerOfService,
    Decomposed,
    DecomposeRequest,
    ErrorReply,
    Found,
    Judged,
    JudgedBatch,
    Judgement,
    JudgeOfService,
    JudgeRequest,
    Limits,
    ModelEntry,
    ModelList,
    ServiceInfo,
    State,
)
from ultraif_ray.serve.guard import Door, Failure, Guard, Metrics, failure_of
from ultraif_ray.serve.served import Model, models_of, shown_name

JUDGED_AT_ONCE = 16
"""Responses of one batch that are judged side by side, so that a large batch leaves room for others."""


@dataclass(frozen=True)
class Service:
    """What the routes work with.

    Attributes:
        recipe: the recipe, with trained models in their roles.
        engines: an engine for each of its pools.
        door: who may come in.
        loading: the pools whose engines are not there yet.
        started: when the models were put up, in seconds since 1970.
        metrics: what is counted.
    """

    recipe: Recipe
    engines: Mapping[str, Engine]
    door: Door = field(default_factory=Door)
    loading: Callable[[], list[str]] = list
    started: int = 0
    metrics: Metrics = field(default_factory=Metrics)

    @property
    def limits(self) -> Serve:
        """The recipe's."""
        return self.recipe.serve

    def client(self, role: str) -> RoleClient:
        """The roles for one request; what they write counts as that of a role."""
        generated = self.metrics.generated.labels(role)
        return RoleClient(self.recipe, dict(self.engines), generated.inc)

    def model(self, name: str) -> Model:
        """The model of a name.

        Raises:
            Failure: there is none.
        """
        models = models_of(self.recipe)
        if name not in models:
            known = ", ".join(models)
            message = f"there is no model {name[:100]!r} here; there is {known}"
            raise Failure(404, "not_found_error", message, "model", "model_not_found")
        return models[name]

    def within(self, found: int, most: int, param: str) -> None:
        """Refuse more of something than the recipe allows.

        Raises:
            Failure: naming it.
        """
        if found > most:
            raise Failure(400, "invalid_request_error", f"{param}: {found} are too many; at most {most}", param)


ABOUT = "OpenAI's chat API over the engines of a recipe, and composing, judging and decomposing beside it."


def create_app(service: Service) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="ultraif", version="1", description=ABOUT, docs_url=None, redoc_url=None, openapi_url="/openapi.json"
    )
    app.state.service = service
    app.include_router(router)
    app.add_exception_handler(HTTPException, _reply_to)
    app.add_exception_handler(RequestValidationError, _reply_to)
    app.add_middleware(Guard, limits=service.limits, door=service.door, metrics=service.metrics)
    app.router.routes.extend(page.routes())
    return app


_STATUSES: dict[int | str, str] = {
    400: "The request cannot be answered as it is.",
    401: "The token is missing or wrong.",
    404: "There is no such model.",
    413: "The request is too large.",
    "4XX": "Another fault of the request.",
    429: "All are busy: come again after Retry-After seconds.",
    500: "A fault of the service.",
    503: "An engine is lost or not there yet: come again.",
    504: "It took too long.",
}

router = APIRouter()
asked = APIRouter(
    prefix="/v1",
    responses={status: {"model": ErrorReply, "description": what} for status, what in _STATUSES.items()},
)

STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}
"""What a route gives too that can stream."""


def _service(request: HttpRequest) -> Service:
    found: Service = request.app.state.service
    return found


Served = Annotated[Service, Depends(_service)]


async def _reply_to(request: HttpRequest, error: Exception) -> Response:
    failure = _failure_of_validation(error) if isinstance(error, RequestValidationError) else failure_of(error)
    body = ErrorReply(error=failure.error).model_dump(exclude_none=True)
    return JSONResponse(body, failure.status_code, headers=dict(failure.headers or {}))


def _failure_of_validation(error: RequestValidationError) -> Failure:
    """The first fault in a sentence, with the field that it is in."""
    fault = error.errors()[0]
    path = fault["loc"][1:]
    if path and path[0] in ("one", "items"):  # the form that a judge's request has
        path = path[1:]
    where = ".".join(str(part) for part in path if not _OF_A_UNION.fullmatch(str(part)))
    if fault["type"] == "json_invalid":
        return Failure(400, "invalid_request_error", "the body is not valid JSON")
    message = f"{where}: {fault['msg']}" if where else fault["msg"]
    return Failure(400, "invalid_request_error", message, where or None)


_OF_A_UNION = re.compile(r"str|constrained-str|list\[.*\]")
"""What pydantic puts into the place of a fault for the type that it tried."""


def _json(reply: BaseModel) -> Response:
    return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")


# ---- chat ------------------------------------------------------------------------------------------------------------


@asked.get("/models", response_model=ModelList)
async def models(service: Served) -> Response:
    """The models, by the names that chat requests give."""
    return _json(ModelList(data=[ModelEntry(id=name, created=service.started) for name in models_of(service.recipe)]))


@asked.get("/models/{name}", response_model=ModelEntry)
async def model(name: str, service: Served) -> Response:
    """One of the models."""
    service.model(name)
    return _json(ModelEntry(id=name, created=service.started))


@asked.post("/chat/completions", response_model=ChatReply, responses=STREAM)
async def chat(body: ChatRequest, service: Served) -> Response:
    """Go on with a conversation, as OpenAI's API does it."""
    named = service.model(body.model)
    request, engine = request_of(body, named, service.recipe), service.engines[named.pool]
    generated = service.metrics.generated.labels(body.model)
    if not body.stream:
        reply = await engine.generate(request)
        generated.inc(reply.generated_tokens)
        return _json(reply_of(reply, body))

    async def events() -> AsyncGenerator[bytes, None]:
        async with aclosing(events_of(engine, request, body)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Reply):
                    generated.inc(piece.generated_tokens)
                else:
                    yield piece

    return await _streamed(events())


async def _streamed(events: AsyncGenerator[bytes, None]) -> Response:
    """A stream, once its first event is there: what fails before that has a status of its own."""
    first = await anext(events)

    async def all_events() -> AsyncIterator[bytes]:
        async with aclosing(events):
            yield first
            async for one in events:
                yield one

    return StreamingResponse(all_events(), media_type="text/event-stream", headers={"cache-control": "no-store"})


# ---- the method ------------------------------------------------------------------------------------------------------


@asked.post("/compose", response_model=Composed, responses=STREAM)
async def compose(body: ComposeRequest, service: Served, accept: Annotated[str, Header()] = "") -> Response:
    """Add constraints to a prompt, one round after another, each with the question that checks it."""
    prompt = _prompt(body.prompt, body.history)
    most = service.limits.max_rounds
    rounds = body.rounds or min(max(1, drawn(prompt, service.recipe)[0]), most)
    service.within(rounds, most, "rounds")
    found = _rounds(prompt, rounds, service)
    if not (body.stream or "text/event-stream" in accept):
        return _json([one async for one in found][-1])

    async def events() -> AsyncGenerator[bytes, None]:
        async with aclosing(found):
            async for one in found:
                if not one.stopped:
                    yield event(one, "round")
        yield event(one, "done")

    return await _streamed(events())


async def _rounds(prompt: Prompt, rounds: int, service: Service) -> AsyncGenerator[Composed, None]:
    """What was composed, after each round; and at the end, where a round failed, why."""
    instruction = Instruction(initial_query=prompt.query, history=prompt.history)
    while instruction.level < rounds:
        client = service.client("composer")
        try:
            instruction = await with_one_more(instruction, prompt, client, service.recipe)
        except (UnusableReply, RequestRefused) as ended:
            if isinstance(ended, RequestRefused) and not instruction.added:
                raise
            why = ended.reason if isinstance(ended, UnusableReply) else str(ended)
            yield _composed(instruction, f"round {instruction.level + 1}: {why}")
            return
        yield _composed(instruction)


def _composed(instruction: Instruction, stopped: str | None = None) -> Composed:
    additions = [
        Addition(text=one.text, category=one.category, question=" ".join(one.questions), checker=one.check)
        for one in instruction.added
    ]
    return Composed(query=instruction.query, constraints=additions, questions=instruction.questions, stopped=stopped)


@asked.post("/decompose", response_model=Decomposed)
async def decomposed(body: DecomposeRequest, service: Served) -> Response:
    """Find the constraints of a prompt, what is left without each, and a question that checks it."""
    prompt, recipe = _prompt(body.prompt, body.history), service.recipe
    checkers = enabled(recipe.synthesize.checkers)
    try:
        found = await decompose(prompt, service.client("decomposer"), recipe.decompose, checkers)
    except UnusableReply as unusable:
        return _json(Decomposed(constraints=[], stopped=unusable.reason))
    constraints = [
        Found(checker=one.check, **one.model_dump(include={"text", "category", "simplified_query", "question"}))
        for one in found
    ]
    return _json(Decomposed(constraints=constraints))


@asked.post("/judge", response_model=Judged | JudgedBatch)
async def judge(body: JudgeRequest, service: Served) -> Response:
    """Answer, for a response or for several, each question about it with yes or no."""
    cases: Sequence[Case] = body.items if isinstance(body, Batch) else [body]
    service.within(len(cases), service.limits.max_items, "items")
    for case in cases:
        service.within(len(case.questions), service.limits.max_questions, "questions")
    slots = asyncio.Semaphore(JUDGED_AT_ONCE)

    async def judged(case: Case) -> Judged:
        async with slots:
            return await _judged(case, service)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(judged(case)) for case in cases]
    except ExceptionGroup as several:
        raise several.exceptions[0] from None
    replies = [task.result() for task in tasks]
    return _json(JudgedBatch(items=replies) if isinstance(body, Batch) else replies[0])


async def _judged(case: Case, service: Service) -> Judged:
    """A response, judged as the recipe says; but all questions are asked, also behind a no."""
    instruction = Instruction(initial_query=case.query, history=case.history)
    response = Answered(text=case.response)
    settings = service.recipe.synthesize.model_copy(update={"ask_all": True})
    await check_and_judge(instruction, response, case.questions, case.checkers, service.client("judge"), settings)
    verdicts = [
        Judgement(explanation=one.explanation or None, **one.model_dump(exclude={"explanation"}))
        for one in response.verdicts
    ]
    yes = sum(one.answer == "yes" for one in verdicts)
    return Judged(verdicts=verdicts, passed=response.passed, share=yes / len(verdicts))


def _prompt(query: str, history: list[Turn]) -> Prompt:
    return Prompt(id=prompt_id(query, history), query=query, history=history)


# ---- about the service -----------------------------------------------------------------------------------------------


@asked.get("/service", response_model=ServiceInfo)
async def about(service: Served) -> Response:
    """What is served, and within which limits."""
    recipe, found = service.recipe, models_of(service.recipe)
    return _json(
        ServiceInfo(
            name=recipe.name,
            models=list(found),
            judge=JudgeOfService(model=shown_name(recipe, found["judge"]), way=recipe.synthesize.judge),
            composer=ComposerOfService(
                model=shown_name(recipe, found["composer"]), trained=recipe.roles.composer.trained
            ),
            limits=Limits(**service.limits.model_dump(include=set(Limits.model_fields))),
        )
    )


@router.get("/health", response_model=State)
async def health() -> Response:
    """This process lives."""
    return _json(State(status="ok"))


@router.get("/ready", response_model=State, responses={503: {"model": State}})
async def ready(service: Served) -> Response:
    """All engines are there."""
    loading = service.loading()
    state = State(status="loading" if loading else "ok", loading=loading)
    return JSONResponse(state.model_dump(), 503 if loading else 200, headers={"Retry-After": "5"} if loading else {})


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Served) -> Response:
    """Prometheus metrics of this copy of the front."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


router.include_router(asked)
