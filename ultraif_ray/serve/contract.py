"""What clients send and get: the models from which the OpenAPI schema is made.

Requests hold no unknown field, no number that is none, and no text that has no UTF-8.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PositiveInt,
    StrictBool,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ultraif_ray.records import Category, Check, Turn


class Body(BaseModel):
    """Base of all requests."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, data: Any) -> Any:
        if isinstance(data, dict):
            try:
                json.dumps(data, ensure_ascii=False, default=str).encode()
            except UnicodeEncodeError:
                raise PydanticCustomError("text", "a text holds half of a surrogate pair: no character") from None
        return data


class Answer(BaseModel):
    """Base of all replies."""

    model_config = ConfigDict(use_attribute_docstrings=True)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "there is no text in it")
    return text


Text = Annotated[str, Field(min_length=1, json_schema_extra={"pattern": r"\S"}), AfterValidator(_not_blank)]


# ---- composing -------------------------------------------------------------------------------------------------------


class ComposeRequest(Body):
    """A prompt to make harder."""

    prompt: Text
    history: list[Turn] = []
    """What was said before."""
    rounds: PositiveInt | None = None
    """How many constraints to add; as many as a run would draw for this prompt when not given."""
    stream: StrictBool = False
    """One event a round; so does the header `Accept: text/event-stream`."""


class Addition(Answer):
    """A constraint that was added."""

    text: str
    """What is new in the query."""
    category: Category | Literal[""]
    """Empty where a trained composer chose it."""
    question: str
    """What checks it; of several questions all, in a row."""
    checker: Check | None = None
    """What code checks of it, where code can."""


class Composed(Answer):
    """The prompt with the constraints that were added."""

    query: str
    constraints: list[Addition]
    questions: list[str]
    """All that an answer must meet."""
    stopped: str | None = None
    """Why there are fewer rounds than were asked for."""


# ---- decomposing -----------------------------------------------------------------------------------------------------


class DecomposeRequest(Body):
    """A prompt whose constraints are wanted."""

    prompt: Text
    history: list[Turn] = []


class Found(Answer):
    """A constraint that was found."""

    text: str
    category: Category
    simplified_query: str
    """The prompt without it."""
    question: str
    checker: Check | None = None


class Decomposed(Answer):
    """The constraints of a prompt; none where it is simple."""

    constraints: list[Found]
    stopped: str | None = None
    """Why nothing the model said could be used."""


# ---- judging ---------------------------------------------------------------------------------------------------------


def _counts(data: Any) -> Any:
    if isinstance(data, dict) and isinstance(data.get("number"), bool):
        raise PydanticCustomError("number", "its number is true or false, which is none")
    return data


class Case(Body):
    """A response to be judged."""

    query: str
    response: str
    questions: list[Text] = Field(min_length=1)
    history: list[Turn] = []
    checkers: dict[str, Annotated[Check, BeforeValidator(_counts)]] = {}
    """For questions that code can answer: the checker, as composing gave it."""


class Batch(Body):
    """Responses to be judged, apart from one another."""

    items: list[Case] = Field(min_length=1)


JudgeRequest = Annotated[
    Annotated[Case, Tag("one")] | Annotated[Batch, Tag("items")],
    Discriminator(
        lambda data: "items" if isinstance(data, Batch) or (isinstance(data, dict) and "items" in data) else "one"
    ),
]


class Judgement(Answer):
    """The answer to one question. `p_yes` is the probability of yes, where the judge was asked for it."""

    question: str
    answer: Literal["yes", "no", "missing", "not asked"]
    p_yes: float | None = None
    by: Literal["code", "judge"]
    explanation: str | None = None


class Judged(Answer):
    """A response, judged."""

    verdicts: list[Judgement]
    passed: bool
    """Whether every answer is yes."""
    share: float
    """Of the questions, how many have yes, in [0, 1]."""


class JudgedBatch(Answer):
    """Responses, judged, in their order."""

    items: list[Judged]


# ---- chat, in OpenAI's form ------------------------------------------------------------------------------------------


class Part(Body):
    """A piece of a message; a model here reads text alone."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message. What else OpenAI's clients send back in an answer of theirs is left out."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    tool_calls: None = None
    function_call: None = None

    @property
    def text(self) -> str:
        """Its text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class JsonSchema(Body):
    """A schema that the answer must follow."""

    name: str = "reply"
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: StrictBool | None = None


class AnyFormat(Body):
    """Text, or a JSON object, of whatever form."""

    type: Literal["text", "json_object"]


class SchemaFormat(Body):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class StreamOptions(Body):
    """What a stream says beside the answer."""

    include_usage: StrictBool = False
    include_obfuscation: StrictBool | None = None


Stop = Annotated[str, Field(min_length=1)]


class ChatRequest(Body):
    """OpenAI's chat request, as far as an engine can follow it. `seed`, `user` and their like are taken and change
    nothing: an engine draws by a seed of its own.
    """

    model: str
    messages: list[ChatMessage] = Field(min_length=1)
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None
    """The newer name of `max_tokens`."""
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: PositiveInt | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    top_k: int | None = Field(None, ge=-1, le=1 << 30)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    logprobs: StrictBool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: Annotated[AnyFormat | SchemaFormat, Field(discriminator="type")] | None = None
    seed: int | None = None
    user: str | None = None
    store: StrictBool | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class TopToken(Answer):
    """One of the likeliest tokens at a place."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(TopToken):
    """A token of the answer, with the likeliest ones at its place."""

    top_logprobs: list[TopToken]


class Logprobs(Answer):
    """The tokens of an answer."""

    content: list[ChatToken]


class AssistantMessage(Answer):
    """An answer. `reasoning` is what a reasoning model wrote before it."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning: str | None = None


class Choice(Answer):
    """One of the answers."""

    index: int
    message: AssistantMessage
    finish_reason: Literal["stop", "length"]
    logprobs: Logprobs | None = None


class PromptDetails(Answer):
    """Of the prompt's tokens."""

    cached_tokens: int


class ChatUsage(Answer):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class ChatReply(Answer):
    """The answers."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage


class ModelEntry(Answer):
    """A model by its name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "ultraif"


class ModelList(Answer):
    """The models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


# ---- about the service -----------------------------------------------------------------------------------------------


class JudgeOfService(Answer):
    """Who judges, and how (`synthesize.judge`)."""

    model: str
    way: Literal["rationale", "each", "logprob"]


class ComposerOfService(Answer):
    """Who composes, and whether it was trained for it."""

    model: str
    trained: bool


class Limits(Answer):
    """The limits of the recipe's `serve`."""

    max_body_bytes: int
    max_tokens: int
    max_n: int
    max_rounds: int
    max_questions: int
    max_items: int
    timeout_s: float


class ServiceInfo(Answer):
    """What is served."""

    name: str
    models: list[str]
    judge: JudgeOfService
    composer: ComposerOfService
    limits: Limits


class State(Answer):
    """Whether the service can be asked; `loading` are the pools whose engines are not there yet."""

    status: Literal["ok", "loading"]
    loading: list[str] = []


ErrorType = Literal[
    "invalid_request_error", "authentication_error", "not_found_error", "rate_limit_error", "timeout_error",
    "unavailable_error", "internal_error",
]  # fmt: skip


class ErrorDetail(Answer):
    """What went wrong, in a sentence; `param` is the field that it is about."""

    message: str
    type: ErrorType
    param: str | None = None
    code: str | None = None


class ErrorReply(Answer):
    """An error, in OpenAI's form."""

    error: ErrorDetail
