"""The recipe: one YAML file that says everything a run does.

Sections are named as the steps are (`ingest`, `decompose`, `synthesize`, `export`), beside `pools` (engines and where
they run) and `roles` (which pool serves which role, and how it samples). Unknown keys are refused, with the nearest
right one. This module imports neither Ray nor vLLM nor torch: a recipe is checked before anything is started.
"""

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Sequence, Set
from glob import escape, glob
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import fsspec
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ultraif_ray.errors import RecipeError
from ultraif_ray.records import ROLES, Category, CheckerName, Family
from ultraif_ray.redact import redacted, secret_of_address, secrets_in
from ultraif_ray.templates import Templates, load_shipped, shipped_templates


class Section(BaseModel):
    """Base of every part of the recipe: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kinds = {name: field.annotation for name, field in cls.model_fields.items()}
        return {key: _as_meant(kinds.get(key), value) for key, value in data.items()}


def _as_meant(kind: Any, value: Any) -> Any:
    """What a value means where a value of some kind is wanted: nothing where a section or a list is means an empty one
    (all its lines may be commented out), and a text where a list of texts is means a list of it alone.
    """
    origin, of = get_origin(kind), get_args(kind)
    if value is None:
        is_section = isinstance(kind, type) and issubclass(kind, Section)
        return {} if is_section or origin is dict else () if origin is tuple else None
    if origin is tuple and of[-1] is Ellipsis:
        return (value,) if isinstance(value, str) else value
    if origin is dict and isinstance(value, dict):
        return {key: _as_meant(of[1], one) for key, one in value.items()}
    if type(None) in of and len(of) == 2:
        return _as_meant(of[0], value)
    return value


def _no_secret(address: str) -> str:
    if what := secret_of_address(address):
        raise PydanticCustomError(
            "secret",
            "an address must hold no {what}: it would stand in manifests and logs. Let the environment open it, or "
            "fetch the file",
            {"what": what},
        )
    return address


def _not_empty(address: str) -> str:
    if not address.strip():
        raise ValueError("an address is empty: is a variable of the shell not set?")
    return address


Address = Annotated[str, AfterValidator(_no_secret), AfterValidator(_not_empty)]
"""A path, a URI, or a hub id; kept in manifests, so without credentials."""


def check_address(key: str, address: str) -> None:
    """Refuse an address that holds a secret.

    Raises:
        RecipeError: naming the key, without the secret.
    """
    if what := secret_of_address(address):
        raise RecipeError(f"{key}: an address must hold no {what}: it would stand in manifests and logs")


def _no_token(args: dict[str, Any]) -> dict[str, Any]:
    for where, what in secrets_in(args):
        inside = f" ({where})" if "." in where else ""
        raise PydanticCustomError(
            "secret",
            "{what}{inside} and would stand in manifests; put it into the environment (HF_TOKEN)",
            {"what": what, "inside": inside},
        )
    return args


def _variable_name(text: str) -> str:
    if not text.isidentifier() or not text.isascii():
        raise PydanticCustomError("secret", "wants the name of an environment variable, and never the key itself")
    return text


class Word(str):
    """A word that YAML 1.1 takes for true or false, such as `no`, as it was written. Where a text is wanted it is one,
    and pydantic makes a truth value of it where that is wanted.
    """


def _words_read(args: Any) -> Any:
    """Settings of a library, whose types are not known here, with words as YAML reads them: a truth value, but for
    transformers' strategies, of which `no` is one.
    """
    if isinstance(args, dict):
        return {
            key: str(one) if isinstance(one, Word) and str(key).endswith("_strategy") else _words_read(one)
            for key, one in args.items()
        }
    if isinstance(args, list):
        return [_words_read(one) for one in args]
    return args.lower() in ("yes", "true", "on") if isinstance(args, Word) else args


Arguments = Annotated[dict[str, Any], BeforeValidator(_words_read), AfterValidator(_no_token)]
"""Settings that are passed on to a library under its own names."""


def _of_the_template(args: dict[str, Any]) -> dict[str, Any]:
    for key in args:
        if key in ("messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message",
                   "tokenize", "tokenizer_kwargs", "padding", "truncation", "max_length", "return_tensors",
                   "return_dict", "return_assistant_tokens_mask", "sanitize_control_tokens"):  # fmt: skip
            raise ValueError(f"{key} says how the template is applied, which is not set here; give its variables alone")
    return args


TemplateArguments = Annotated[Arguments, AfterValidator(_of_the_template)]
"""Variables that a chat template knows, such as `enable_thinking`."""


_IS_TEMPLATE = re.compile(r"\{[{%]")


def _template_text(text: str) -> str:
    if not _IS_TEMPLATE.search(text):
        raise ValueError("there is no such file, and the text of a chat template would hold {{ … }} or {% … %}")
    return text


# ---- pools: engines, and where they run --------------------------------------------------------------------------


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("without a text there, thoughts could not be told from answers; for a model without: null")
    return text


class Thinking(Section):
    """How a reasoning model sets its thoughts apart from its answer: the texts before and after them, with the white
    space that its chat template puts there. They are found whatever white space is there.
    """

    start: Annotated[str, AfterValidator(_not_blank)] = "<think>\n"
    end: Annotated[str, AfterValidator(_not_blank)] = "\n</think>\n\n"


class Replicas(Section):
    """How many copies of a pool run: Ray Data adds copies up to `max` while rows wait, and drops idle ones."""

    min: PositiveInt = 1
    max: PositiveInt = 1

    @model_validator(mode="before")
    @classmethod
    def _that_many(cls, data: Any) -> Any:
        return {"min": data, "max": data} if isinstance(data, int) else data

    @model_validator(mode="after")
    def _ordered(self) -> "Replicas":
        if self.min > self.max:
            raise ValueError(f"min ({self.min}) is above max ({self.max})")
        return self


class Resources(Section):
    """What one replica of a pool, or one training worker, asks of a node."""

    cpus: float = Field(1.0, ge=0)
    """Logical CPUs."""
    gpus: float = Field(0.0, ge=0)
    """GPUs. For a replica, a fraction shares a GPU with others; for a training worker, 0 or 1."""
    accelerator_type: str | None = None
    """Ray's name of a GPU model, such as `A100` or `L4`."""
    resources: dict[str, float] = {}
    """Custom Ray resources."""
    labels: dict[str, str] = {}
    """Ray node labels that the node must have, such as `{ray.io/market-type: spot}`."""

    @property
    def asked(self) -> dict[str, float]:
        """By Ray's resource names, without those of which nothing is asked."""
        every = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in every.items() if amount}

    @property
    def accelerator(self) -> dict[str, float]:
        """A trace of the resource that Ray gives to every node with this GPU model, as its `accelerator_type` option
        asks for it; empty for any model.
        """
        return {f"accelerator_type:{self.accelerator_type}": 0.001} if self.accelerator_type else {}


class Placement(Resources):
    """What a pool asks of the cluster."""

    replicas: Replicas = Replicas()
    """Copies of this pool."""
    rows_in_flight: PositiveInt = 128
    """Journeys that run at once in one replica. They fill the engine's batch, which on a GPU has a place for each
    (vLLM's `max_num_seqs`), up to 512; `args` may say another number."""


_PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "prefill_context_parallel_size")
"""The vLLM arguments whose product is the number of its GPUs (`ParallelConfig.world_size`). Those for decode contexts
and experts (`decode_context_parallel_size`, `enable_expert_parallel`) say what the same GPUs do.
"""


class VllmPool(Placement):
    """vLLM inside the Ray worker: continuous batching over all rows in flight, prefix cache on."""

    engine: Literal["vllm"]
    model: Address
    """A local folder, a hub id, or `packaged` for the small model that the `packaged` extra installs."""
    max_model_len: PositiveInt | None = None
    """Context length in tokens; the model's own when not given."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off unless you trust its author."""
    chat_template: Annotated[str, AfterValidator(_template_text)] | None = None
    """A Jinja file, or its text, in place of the model's own chat template. A file is read when the recipe is loaded:
    what stands here afterwards, and in the fingerprint, is its text."""
    template_args: TemplateArguments = {}
    """Variables for the chat template, such as `{enable_thinking: false}`."""
    thinking: Thinking | None = Thinking()
    """What stands around the model's thoughts, should it have any: by default as Qwen3 and DeepSeek R1 have it. They
    are no part of a reply. null: whatever the model writes is its answer."""
    timeout_s: PositiveFloat = 1800.0
    """Seconds after which a request without an answer, waiting included, means that the engine hangs: it is replaced,
    and its rows are done again."""
    args: Arguments = {}
    """Further vLLM engine arguments by vLLM's own names (`AsyncEngineArgs`), such as `tensor_parallel_size`. With
    `distributed_executor_backend: ray` one replica's GPUs may be on several nodes."""

    @model_validator(mode="after")
    def _gpus_for_its_parallelism(self) -> "VllmPool":
        sizes = {name: int(self.args.get(name, 1)) for name in _PARALLEL}
        wanted = math.prod(sizes.values())
        if wanted > 1 and self.gpus != wanted:
            product = " x ".join(f"{name} {size}" for name, size in sizes.items() if size > 1)
            raise ValueError(f"args ask for {wanted} GPUs ({product}), but gpus is {self.gpus:g}: set gpus to {wanted}")
        return self

    @model_validator(mode="after")
    def _one_copy_in_one_worker(self) -> "VllmPool":
        for name, value in self.args.items():
            if name.startswith(("data_parallel_", "nnodes")) and value != 1:
                raise ValueError(
                    f"args.{name} is {value}: here an engine is one copy of the model, started as a whole in a Ray "
                    "worker; set replicas for more copies, and leave it out"
                )
        if self.args.get("distributed_executor_backend") == "ray" and self.replicas.min != self.replicas.max:
            raise ValueError(
                f"replicas are {self.replicas.min} to {self.replicas.max}, but the GPUs of an engine that spreads over "
                "nodes are set aside until the end of the step: set min and max to the same"
            )
        return self


class OpenAIPool(Placement):
    """Any OpenAI-compatible server, such as `vllm serve`, reached over HTTP."""

    engine: Literal["openai"]
    model: str
    """The model's name on that server."""
    base_url: Address
    """For instance `http://127.0.0.1:8000/v1`."""
    system_role: bool = True
    """Whether the model's chat template takes a system message. The template is on the server, so say it here: where
    false, the message is put before the first user turn."""
    template_args: TemplateArguments = {}
    """Variables for the chat template, such as `{enable_thinking: false}`; sent as `chat_template_kwargs`, which vLLM's
    server knows."""
    thinking: Thinking | None = Thinking()
    """What stands around the model's thoughts where the server does not take them out of the answer itself (`vllm serve
    --reasoning-parser`). null: whatever the model writes is its answer."""
    api_key_env: Annotated[str, AfterValidator(_variable_name)] = "OPENAI_API_KEY"
    """The environment variable that holds the key. The key itself never stands in a recipe."""
    max_concurrency: PositiveInt = 64
    """Requests open at once from one replica."""
    max_retries: int = Field(6, ge=0)
    """Tries after the first, with exponential backoff, on 408, 409, 429, 5xx, timeouts and lost connections."""
    timeout_s: PositiveFloat = 300.0
    """Seconds before a request counts as timed out."""
    cpus: float = Field(0.1, ge=0)


class Fault(Section):
    """Something that goes wrong in a simulated engine."""

    kind: Literal["die", "hang", "exit", "refuse"]
    """The engine dies, gives no answer any more, ends its worker's process, or refuses the request."""
    when: Literal["start", "request"] = "request"
    query: str = ""
    """A text in the query of the requests that it strikes; all where empty."""
    once: str | None = None
    """A file to make when it strikes: while that is there it does not strike again. Else it strikes every time."""
    message: str = "a fault of the simulation"
    """What the engine says as it dies or refuses."""


class SimulatedPool(Placement):
    """No model: replies of the right shape at a given speed, with seeded failures. For scale tests only."""

    engine: Literal["simulated"]
    model: str = "simulated"
    tokens_per_s: PositiveFloat = 1e9
    """Generation speed of one request."""
    response_tokens: tuple[PositiveInt, ...] = ()
    """Lengths of responses, one of which is drawn for each; some 70 tokens when not given."""
    latency_s: float = Field(0.0, ge=0)
    """Time to the first token."""
    broken_share: float = Field(0.0, ge=0, le=1)
    """Share of JSON replies that are cut in half."""
    refused_share: float = Field(0.0, ge=0, le=1)
    """Share of requests that are refused."""
    faults: tuple[Fault, ...] = ()
    replies: str | None = None
    """A folder in which each process notes each reply, also those that are lost later: of which row and role, the
    tokens of each of its texts, and when it began and ended in seconds since 1970."""
    timeout_s: PositiveFloat = 1800.0
    """Seconds after which the engine counts as hanging."""
    seed: int = 0
    cpus: float = Field(0.1, ge=0)


Pool = Annotated[VllmPool | OpenAIPool | SimulatedPool, Field(discriminator="engine")]


class Sampling(Section):
    """How replies are drawn beyond temperature, top-p and length, under vLLM's names. Where nothing is given nothing is
    sent, and the engine's own default holds. Of an openai pool's server, OpenAI's API knows `stop`, `presence_penalty`
    and `frequency_penalty`; the others are sent beside them (`extra_body`), as vLLM's own server takes them.
    """

    stop: tuple[str, ...] | None = None
    """Texts that end a reply where they come up. They are not part of it."""
    top_k: int | None = Field(None, ge=-1)
    """Draw from this many likeliest tokens; 0 or -1 for all."""
    min_p: float | None = Field(None, ge=0, le=1)
    """Draw from tokens that are at least this likely, as a share of the likeliest one's probability."""
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    """Taken off the logit of every token that the reply has already."""
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    """Taken off the logit of a token for each time that the reply has it."""
    repetition_penalty: float | None = Field(None, gt=0)
    """Above 1 it makes less likely what stands in prompt or reply; 1 is none."""

    @property
    def given(self) -> dict[str, Any]:
        """What was given, by vLLM's names."""
        every = {name: getattr(self, name) for name in Sampling.model_fields}
        given = {name: value for name, value in every.items() if value is not None}
        return given if self.stop is None else given | {"stop": list(self.stop)}


class RoleSettings(Sampling):
    """Who plays a role, and how it samples."""

    pool: str
    """The name of a pool."""
    system: str | None = None
    """The system prompt of this role; none where null. Where it is not given, the one of the recipe's `templates`. The
    responder of DPO rounds has its own, `align.system`; a trained composer is asked without."""
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: PositiveInt = 1024
    """Most tokens of one reply."""
    thinking_tokens: int | None = Field(None, ge=0)
    """Most tokens of the thought before a reply, on top of `max_tokens`: the model is made to think, and after so many
    tokens to answer. A reply's grammar, or the label whose probability is asked for, begins after the thought. 0: the
    thought is empty. null: free text has the thought that the model chooses, within `max_tokens`; JSON and labels have
    none. On an openai pool this is vLLM's `thinking_token_budget`, and the server needs its `--reasoning-parser`."""
    adapter: Address | None = None
    """A LoRA adapter on the pool's model: a folder or hub id (vllm), or the name it is served under (openai)."""

    @model_serializer(mode="wrap")
    def _not_given_is_not_null(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = dump(self)
        return data if "system" in self.model_fields_set else {k: v for k, v in data.items() if k != "system"}


class ComposerSettings(RoleSettings):
    """The composer, which may be a model that was trained for it."""

    trained: bool = False
    """The model is an UltraComposer, such as the authors' released one: it is asked in that checkpoint's format. Set
    by itself once this run's own composer is trained."""

    @property
    def is_a_model_of_its_own(self) -> bool:
        """Whether its engine has no model but the one that was trained to compose."""
        return self.trained and not self.adapter


class Roles(Section):
    """The four roles. Defaults are the paper's: composer T=0.7; responder T=1.0, top-p 0.95; the others T=0."""

    decomposer: RoleSettings
    composer: ComposerSettings
    responder: RoleSettings
    judge: RoleSettings

    @model_validator(mode="before")
    @classmethod
    def _paper_defaults(cls, data: Any) -> Any:
        defaults: dict[str, dict[str, Any]] = {
            "decomposer": {"max_tokens": 2048},
            "composer": {"temperature": 0.7, "max_tokens": 1024},
            "responder": {"temperature": 1.0, "top_p": 0.95, "max_tokens": 2048},
            "judge": {"max_tokens": 1024},
        }
        if not isinstance(data, dict):
            return data
        return {k: {**defaults.get(k, {}), **v} if isinstance(v, dict) else v for k, v in data.items()}


# ---- steps ---------------------------------------------------------------------------------------------------------


def _known_encoding(name: str) -> str:
    try:
        "".encode(name)
    except LookupError:
        raise ValueError("Python knows no such encoding of texts; cp1252, gb18030 and shift_jis are some") from None
    return name


class Ingest(Section):
    """Which prompts enter, and which are turned away (each rejection is counted, with its reason)."""

    turns: Literal["last", "first", "all", "mixed"] = "last"
    """Which human turns of a conversation are prompts, each with what was said before it as its history. `last` and
    `first`: that one. `all`: every one (the paper makes some 200K composer pairs of 52K conversations). `mixed`: one,
    drawn by a hash of the conversation, each as likely as the next: so that there are prompts of every depth (the paper
    mixes those with and without a history), and no long conversation outweighs others with prompts that repeat each
    other's history. The draw is the same in every run, and for every copy of the conversation."""
    max_chars: PositiveInt = 12_000
    """Longest prompt, query and its own history together, in characters. With `turns: all` an early turn may fit where
    a late one of the same conversation does not."""
    multi_turn_only: bool = False
    """Take only prompts that have a history."""
    asks_nothing: Literal["keep", "drop"] = "drop"
    """Turns that ask nothing ("continue", "thanks")."""
    languages: tuple[str, ...] = ()
    """The languages of queries, by ISO 639 codes such as `en`; others are turned away, and those whose language cannot
    be told. All where empty."""
    near_duplicates: float | None = Field(None, gt=0, lt=1)
    """Turn away prompts that are so similar to one before: of the runs of three words of both, the share that both
    have. Half of the pairs of this similarity are found, far fewer below, and nearly all above: docs/data.md has
    figures. null: exact duplicates alone."""
    toxic: Literal["keep", "drop"] = "keep"
    """Records that the data itself calls toxic, as WildChat's and LMSYS-Chat's do."""
    keys: Literal["keep", "mask", "drop"] = "keep"
    """Prompts that hold a key, a token or a password, in the query or in what was said before."""
    private: Literal["keep", "mask", "drop"] = "keep"
    """Prompts that hold an e-mail address, a public IP address, or the number of a phone, a card or a bank account."""
    limit: PositiveInt | None = None
    """Stop after so many accepted prompts."""
    encoding: Annotated[str, AfterValidator(_known_encoding)] | None = None
    """Of files without a byte-order mark, by Python's names, such as `cp1252`; lines that are not in it are counted
    out. null: they are UTF-8, and a file with a line that is not is refused."""

    @model_validator(mode="after")
    def _first_turns_have_no_history(self) -> "Ingest":
        if self.turns == "first" and self.multi_turn_only:
            raise ValueError(
                "turns is first, and multi_turn_only takes no first turn, so nothing would be left: set turns to last, "
                "all or mixed, or multi_turn_only to false"
            )
        return self


Benchmark = Literal["ifeval", "ifbench", "followbench", "gsm8k"]
BENCHMARKS: tuple[Benchmark, ...] = get_args(Benchmark)
"""Those whose index ships with the package."""


class Against(Section):
    """A benchmark to keep out of the data."""

    files: tuple[Address, ...] = ()
    """Its files, globs, folders, URIs or hub ids, in any shape that prompts may have: every human turn is kept out.
    None for one of those that ship."""
    share: float | None = Field(None, gt=0, le=1)
    """In place of `decontaminate.share`."""

    @model_validator(mode="before")
    @classmethod
    def _files_alone(cls, data: Any) -> Any:
        return {"files": data} if isinstance(data, str | list | tuple) else data


class Decontaminate(Section):
    """Keep benchmarks out of the data: prompts that hold one of their prompts are turned away, and so is what the
    composer makes one of. Works offline, from hashes.
    """

    benchmarks: Literal["all", "none"] | tuple[Benchmark, ...] = "all"
    """Which of those that ship are kept out: all, none, or a list of them."""
    share: float = Field(0.45, gt=0, le=1)
    """The share of a benchmark's prompt from which a text holds it: of its pairs of neighbouring words, rare ones
    weighing more, within a stretch of the text that is half as long again. docs/data.md says what is missed and hit."""
    against: dict[str, Against] = {}
    """More benchmarks, as `name: file`, or `name: {files: …, share: …}`."""
    index: Address | None = None
    """The files of `against` as an index. Set by itself once ingest has read them."""

    @property
    def shipped(self) -> tuple[str, ...]:
        """Which of those that ship are kept out."""
        if isinstance(self.benchmarks, tuple):
            return self.benchmarks
        return BENCHMARKS if self.benchmarks == "all" else ()

    @model_validator(mode="after")
    def _known_or_with_files(self) -> "Decontaminate":
        for name, one in self.against.items():
            if one.files and name in BENCHMARKS:
                raise ValueError(f"against.{name} names files, but an index of {name} ships: give it another name")
            if not one.files and name not in BENCHMARKS:
                raise ValueError(
                    f"against.{name} names no files, and none of that name ships: set against.{name}.files"
                )
        return self


Check = Literal["model", "text", "none"]
"""How a step holds models to what they claim. `text`: by what left a text and what came to it. `model`: by the text,
and then one token of a yes/no question to the engine at hand. `none`: any reply of the right shape will do."""


CHECK_LABELS = ("Yes", "No")
"""The two answers of a check by model. Each must be a single token of the model that is asked."""


class Decompose(Section):
    """Find the constraints of each prompt (paper, section 2.2)."""

    attempts: PositiveInt = 3
    """Samples of the decomposer before a row fails. Those after the first are drawn warmer."""
    max_constraints: PositiveInt = 6
    """Most constraints taken from one prompt."""
    calls: Literal[1, 2] = 1
    """`2`: the constraints first, then the question of each in a call of its own, as in the paper (appendix A.1)."""
    check: Check = "model"
    """Whether a constraint holds: the query without it lacks it and nothing else, and the question checks it."""


def _known_checkers(value: Any) -> Any:
    if value in ("none", "all"):
        return value
    if not isinstance(value, list | tuple):
        raise ValueError("wants none, all, or a list of families and names, such as [length, in_language]")
    known = {*get_args(CheckerName), *get_args(Family)}
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(str(name), sorted(known), n=1)
            hint = f"did you mean '{close[0]}'?" if close else "docs/method.md lists them"
            raise ValueError(f"{name!r} is no checker and no family of them; {hint}")
    return value


Checkers = Annotated[Literal["none", "all"] | tuple[Family | CheckerName, ...], BeforeValidator(_known_checkers)]
"""Which checkers are on: none, all, or those of these families and names."""


class Band(Section):
    """Which share of an instruction's `k` responses should pass. From `high` on, one constraint more is added; down to
    `low`, the last one is taken away; and so on, until the share lies between or the other side was tried already.
    """

    low: float = Field(0.0, ge=0, lt=1)
    """The highest share of passing responses that is too low. With 0: none passes."""
    high: float = Field(1.0, gt=0, le=1)
    """The lowest share of passing responses that is too high. With 1: all pass."""
    most_rounds: PositiveInt = 6
    """Most constraints of an instruction."""

    @model_validator(mode="after")
    def _ordered(self) -> "Band":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) is not below high ({self.high}), so that no share lies between")
        return self

    def direction(self, passed: int, failed: int, k: int) -> int | None:
        """Where to go with so many responses judged, of `k`: 1 to one constraint more, -1 to one fewer, 0 nowhere;
        None while the responses that are left could still decide it.
        """
        least, most = passed / k, (k - failed) / k
        if least >= self.high:
            return 1
        if most <= self.low:
            return -1
        return 0 if least > self.low and most < self.high else None


class Synthesize(Section):
    """Compose harder instructions, answer them, judge the answers (paper, sections 2.2 and 2.3)."""

    rounds: dict[int, PositiveFloat] = {1: 1.0, 2: 1.0, 3: 1.0}
    """How many constraints are added, as `rounds: weight`; each row draws its own number. The paper adds up to 3. With
    0 a row is answered as it is."""
    band: Band | None = None
    """Where given, `rounds` is only where a row begins: it goes on to as many constraints as leave some responses
    passing and some failing."""
    intermediate: bool = False
    """Answer and judge the instruction of every round, not only the last. With a `band`: keep all that were answered on
    the way."""
    attempts: PositiveInt = 3
    """Samples of the composer, or of the judge's reasoning, before a row fails (composer) or a verdict is missing."""
    check: Check = "model"
    """Whether a constraint that was added holds: the query kept what it asks, nothing contradicts, and the questions
    check it. Where the composer is a whole model of its own, the judge is asked, before the query is answered."""
    k: PositiveInt = 5
    """Most responses to one instruction (the paper: 5)."""
    wave: PositiveInt | Literal["auto"] = "auto"
    """Responses sampled at once. More is quicker for the last rows of a step, and spends tokens that 1 would save. By
    default 1, and on GPUs as many as the rows that are left do not fill of `rows_in_flight`: there a sequence more in
    the batch costs next to no time."""
    goal: Literal["sft", "dpo", "all"] = "dpo"
    """`sft` stops at the first response that passes, `dpo` when the row holds one that passes and one that fails; `all`
    samples `k`."""
    pairs: Literal["judged", "contrast"] = "judged"
    """`contrast` asks no judge: chosen answers the composed query, rejected the query of the round before it."""
    questions: Literal["composed", "all"] = "composed"
    """What a response must meet: the composer's questions (as in the paper), or those the decomposer found in the
    prompt as well."""
    standing: bool = False
    """Ask after them the two questions of every answer: that it answers the request, and that it is free of preamble
    and of claims to have met it (`templates.judge.standing`)."""
    judge: Literal["rationale", "each", "logprob"] = "rationale"
    """`rationale`: one reasoned JSON answer to all questions, as in the paper. `each`: each question apart, with its
    reason. `logprob`: one token per question."""
    follow_up: bool = False
    """Where the judge is the responder's own model, judge a response as the next turn of the conversation that gave
    it, on what the engine has in its cache. Else, and where it is not, the judge has a conversation of its own."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Logprob judging: the probability of yes from which a question counts as met."""
    labels: tuple[str, str] = ("Yes", "No")
    """Logprob judging: the two answers. Each must be a single token of the judge's model."""
    ask_all: bool = False
    """`each` and `logprob`, and the judge after code: go on asking after the first no, which has failed the response
    already."""
    repetitive: float | None = Field(None, gt=0, le=1)
    """The share of its runs of five words that come more than once from which a response is no answer, such as 0.8: it
    goes round in circles. Not for data whose constraints ask for repetition. null: any may be one."""
    refusals: Literal["keep", "drop"] = "keep"
    """Responses that open with a refusal: `drop` makes them no answer. What is no answer neither passes nor is the
    failed half of a pair, and no judge is asked about it."""
    checkers: Checkers = "none"
    """Which constraints code checks instead of the judge (docs/method.md lists them): `none`, as in the paper, `all`,
    or a list of families and names, such as `[length, in_language]`. Decomposer and prompted composer may then name one
    with its arguments; a trained composer keeps its format, and names none."""

    @model_validator(mode="after")
    def _rounds_positive(self) -> "Synthesize":
        if not self.rounds or min(self.rounds) < 0:
            raise ValueError(
                f"rounds wants numbers from 0 with a weight each, such as {{1: 0.5, 2: 0.5}}; got {self.rounds}"
            )
        return self

    @model_validator(mode="after")
    def _band_has_responses(self) -> "Synthesize":
        if self.band and (self.k < 2 or self.pairs == "contrast"):
            raise ValueError(
                f"band wants responses that are judged, and at least two of them: k is {self.k}, pairs are {self.pairs}"
            )
        return self


CapField = Literal["category", "level", "source"]

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Weights(Section):
    """In which ratio the examples of a set are, by what they are. Of two values of weight 1 and 2 the set has twice as
    many of the second: as many of both as there are, since none stands there twice. 0 leaves a value out; of one that
    is not named all stay.
    """

    category: dict[Category, Weight] = {}
    """By category of constraint. An example has several, and stays only where it is within the share of each."""
    level: dict[NonNegativeInt, Weight] = {}
    """By how many constraints were added."""
    source: dict[str, Weight] = {}
    """By file of prompts: its path, the last parts of it, or a folder or a glob, whose files then count as one; or a
    hub id as in `prompts`."""

    @model_validator(mode="after")
    def _say_something(self) -> "Weights":
        for field, weights in self:
            if len(weights) == 1 and any(weights.values()):
                raise ValueError(f"{field}: a weight is against others: name two values or more, or give one 0")
        return self


class Range(Section):
    """Numbers: a number alone, or those from `min` to `max`, or between `above` and `below` and neither of these."""

    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _that_number(cls, data: Any) -> Any:
        if isinstance(data, str | list | bool):
            raise ValueError("wants a number, or a range, such as {min: 2, max: 3} or {above: 0, below: 1}")
        return {"min": data, "max": data} if isinstance(data, int | float) else data

    @model_validator(mode="after")
    def _holds_a_number(self) -> "Range":
        low = max((one for one in (self.min, self.above) if one is not None), default=-math.inf)
        high = min((one for one in (self.max, self.below) if one is not None), default=math.inf)
        if low > high or (low == high and not self.holds(low)):
            raise ValueError(f"no number lies there: from {low:g} to {high:g}")
        return self

    def holds(self, number: float) -> bool:
        """Whether a number lies there."""
        return (
            (self.min is None or number >= self.min)
            and (self.max is None or number <= self.max)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )


class Where(Section):
    """Which examples a set takes: those that meet every condition. The composer's set has neither responses nor levels,
    and conditions on these are not asked there.
    """

    pass_rate: Range | None = None
    """Share of the instruction's responses that passed, in [0, 1]: `{above: 0, below: 1}` leaves out those that all or
    none met. An instruction whose responses nobody judged has none, and is not taken. Sampling that stops early
    (`synthesize.goal`) leaves few responses to tell from: see `samples`."""
    samples: Range | None = None
    """How many responses were judged, such as `{min: 4}`."""
    level: Range | None = None
    """How many constraints were added, such as 2 or `{min: 2, max: 3}`."""
    category: tuple[Category, ...] = ()
    """It has a constraint of one of these categories."""
    checker: tuple[CheckerName, ...] = ()
    """Code checks one of its constraints, by one of these."""
    source: tuple[str, ...] = ()
    """Its prompt is from one of these files; named as in `weights`."""

    @model_validator(mode="before")
    @classmethod
    def _by_column(cls, data: Any) -> Any:
        if isinstance(data, str | list):
            raise ValueError(
                "wants conditions by column, such as {pass_rate: {above: 0, below: 1}, category: [format]}"
            )
        return data

    @model_validator(mode="after")
    def _pass_rate_is_a_share(self) -> "Where":
        for _, bound in self.pass_rate or ():
            if bound is not None and not 0 <= bound <= 1:
                raise ValueError(f"pass_rate: a share in 0 to 1, not {bound:g}")
        return self


class Export(Section):
    """Write the training sets."""

    layout: Literal["trl", "reference"] = "trl"
    """`trl`: TRL's conversational formats. `reference`: what the authors' trainers read."""
    files: tuple[Literal["parquet", "jsonl"], ...] = ("parquet", "jsonl")
    held_out: float = Field(0.05, ge=0, lt=1)
    """Share of conversations, chosen by a hash of how they begin, that goes to the held-out split of every set: all
    prompts of a conversation, and all conversations with the same first turn, stand on one side."""
    caps: dict[CapField, PositiveInt | Literal["smallest"]] = {}
    """Most examples of a set with the same `category` of constraint, the same `level` (how many were added) or the same
    `source` (a file of prompts); `smallest` for as many as the rarest of them has. An example stays only where it is
    within the caps of all that it is of; which ones stay depends on the prompts alone."""
    weights: Weights = Weights()
    where: Where = Where()
    pair: Literal["first", "widest"] = "first"
    """Which responses make a DPO pair: the first that passed and the first that failed, or those that are furthest
    apart in how well they meet the questions. The latter wants `synthesize.goal: all`, and `ask_all`."""
    keep_unsatisfied: bool = False
    """Put the last failing response into the SFT set where none passed, as the reference does."""
    system_prompt: str | None = None
    """A system message to put before every example. The paper trains on the bare query."""


# ---- training ------------------------------------------------------------------------------------------------------

_OURS = {
    "output_dir": "checkpoints go to the run's folder",
    "overwrite_output_dir": "a step that is done is never overwritten",
    "resume_from_checkpoint": "a run resumes by itself",
    "max_steps": "say num_train_epochs, which every restart keeps to",
    "remove_unused_columns": "ids stay with their rows",
    "shuffle_dataset": "every epoch is shuffled already, by seed",
    "train_sampling_strategy": "the order must not depend on the number of workers",
    "chat_template_path": "say policy.chat_template",
    "assistant_only_loss": "the loss is on the answer alone",
    "use_cpu": "say train.gpus",
    "trust_remote_code": "say it beside the model (policy, composer)",
    "dataloader_drop_last": "every row is trained on once an epoch",
    "ignore_data_skip": "a resumed epoch goes on where it was",
    "auto_find_batch_size": "the global batch stays what it is",
}


def _trl_fields(fields: dict[str, Any]) -> dict[str, Any]:
    for key in fields:
        if key in _OURS:
            raise ValueError(f"{key} is not set here: {_OURS[key]}")
    return fields


TrlFields = Annotated[Arguments, AfterValidator(_trl_fields)]
"""Fields of TRL's own config, under its own names; checked by building that config before a worker starts."""

_PAPER_SFT = {"learning_rate": 1e-5, "num_train_epochs": 3, "max_length": 8192, "lr_scheduler_type": "cosine",
              "warmup_steps": 0.03}  # fmt: skip
_PAPER_DPO = {"learning_rate": 5e-7, "num_train_epochs": 3, "max_length": 8192, "lr_scheduler_type": "cosine",
              "warmup_steps": 0.03, "beta": 0.1, "loss_type": ["sigmoid"]}  # fmt: skip


class Composer(Section):
    """Train an UltraComposer on what was decomposed (paper, section 2.2), and compose with it."""

    model: Address
    """The model it starts from: a local folder, a hub id, or `packaged`."""
    prompts: tuple[Address, ...] = ()
    """Prompts that are decomposed for the composer's training and for nothing else, as in the paper; named as `prompts`
    are, and read as `ingest` says. The composer then learns from these, and composes `prompts`, which are decomposed
    only for `synthesize.questions: all`. When not given, it learns from `prompts`."""
    lora: Arguments | None = None
    """Fields of peft's `LoraConfig`; full fine-tuning when not given. An adapter on the model of the composer's pool
    is served from that pool; anything else gets a pool of its own, placed like the composer's."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    sft: TrlFields = {}
    """Fields of TRL's `SFTConfig`."""
    min_pairs: PositiveInt = 500
    """Pairs to train on below which no composer is trained: the prompted one stays."""
    eval_samples: int = Field(64, ge=0)
    """Held-out pairs that the trained composer answers, and the model that it started from, prompted: it takes over
    only where at least as many of its answers can be used. With 0 it takes over untried; else without a held-out pair
    none is trained."""

    @model_validator(mode="before")
    @classmethod
    def _paper_defaults(cls, data: Any) -> Any:
        return _under(data, "sft", _PAPER_SFT)


class Policy(Section):
    """The model that is trained on the data. It need not be one that plays a role."""

    model: Address
    """The model it starts from: a local folder, a hub id, or `packaged`."""
    lora: Arguments | None = None
    """Fields of peft's `LoraConfig`; full fine-tuning when not given."""
    chat_template: str | None = None
    """A Jinja file, for a base model that has no chat template. Say in `sft.eos_token` with which token it ends an
    answer, where that is not the model's own end of text."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    pool: str | None = None
    """The vllm pool that serves the policy in DPO rounds; the responder's when not given. An adapter on that pool's
    model is served from it; anything else gets a pool of its own, placed like it."""
    share_gpu: bool = False
    """Where policy and judge are two engines of one worker, with a GPU each: put both on one GPU, with half of its
    memory each. While one of the two works the other mostly waits, but each has a smaller cache: it is for GPUs that
    are scarce, or large for these models. `ultraif plan` says what is left for the caches."""


class Sets(Section):
    """Training sets that exist already, as files, globs, folders, URIs or hub ids. A run that has any makes no data of
    its own: it trains on these.
    """

    composer: tuple[Address, ...] = ()
    """Pairs for the composer, which then is all that is trained."""
    sft: tuple[Address, ...] = ()
    """Examples for SFT of the policy."""
    dpo: dict[PositiveInt, tuple[Address, ...]] = {}
    """Pairs for DPO, by round from 1. The first goes on from SFT, or from `policy.model` where there is no `sft`."""

    @property
    def files(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.composer, *self.sft, *(file for number in sorted(self.dpo) for file in self.dpo[number]))

    @model_validator(mode="after")
    def _one_run_of_them(self) -> "Sets":
        if bool(self.composer) == bool(self.sft or self.dpo):
            raise ValueError(
                "name sets for the composer, or for the policy (sft, dpo), and let the other have a run of its own"
            )
        if sorted(self.dpo) != list(range(1, len(self.dpo) + 1)):
            raise ValueError(f"dpo has the rounds {sorted(self.dpo)}: each goes on from the one before, from 1 on")
        return self


class Responses(Section):
    """Responses that exist already. A run that has them samples none before its DPO rounds: it judges these."""

    run: Address
    """The folder of the run that made them."""
    step: str = Field("synthesize", pattern=r"^(round-[1-9]\d*/)?synthesize$")
    """The step of that run: `synthesize`, or a round's, such as `round-1/synthesize`."""
    planted: bool = False
    """Put violations in the place of these responses: answers to each instruction without its last constraint."""


class Align(Section):
    """Iterative DPO: each round samples from the policy of the round before, on instructions with more constraints."""

    iterations: int = Field(1, ge=0)
    """Rounds of synthesis and DPO after SFT; 0 ends with the SFT model."""
    extra_constraints: int = Field(1, ge=0)
    """Constraints that every round adds to `synthesize.rounds`."""
    prompt_fraction: float = Field(1.0, gt=0, le=1)
    """Fraction of the prompts, chosen by id, that a round takes: each round the next one, and after the last the first
    again."""
    last_round_dpo: TrlFields | None = None
    """Fields of TRL's `DPOConfig` that are laid over `dpo` in the last round. Not given, and with the default loss in
    `dpo`, the last of several rounds has `loss_type: [nca_pair]`, as in the paper: from the third round on sigmoid
    lowers the probability of chosen and rejected alike (section 4.1, appendix A.3). `{}`: all rounds alike."""
    system: str | None = None
    """The system prompt of the responder, which is the policy, in the rounds. Where null, what the policy is trained
    with: `export.system_prompt`, and by default none."""


class Train(Resources):
    """Where training runs, and what it survives."""

    workers: Replicas = Replicas()
    """Data-parallel workers. With min below max, training starts with what there is and resizes with the cluster; the
    global batch stays per_device_train_batch_size x gradient_accumulation_steps x max."""
    max_failures: int = Field(3, ge=-1)
    """Failures of workers that training recovers from; preempted nodes do not count. -1: without end."""
    save_every_s: PositiveFloat = 1800.0
    """Most seconds between two checkpoints. TRL's save_steps, a tenth of a training, are longer in a long one."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints that are kept while training runs."""
    keep_for_evaluation: int = Field(0, ge=0)
    """At how many moments of a training, evenly spread, its model is kept: with the number of epochs, at the end of
    each. The last is the step's `model`, those before stand in its `kept/step-N`, for `ultraif evaluate`."""
    resize_s: PositiveFloat = 300.0
    """Seconds between two looks at whether the cluster has room for more workers. Growing goes back to the last
    checkpoint."""


class Evaluate(Section):
    """Measure the policy on benchmarks: as it starts, after SFT, and after each DPO round."""

    benchmarks: dict[str, Address | None] = Field(min_length=1)
    """Names, each with the file that holds it (docs/evaluation.md lists the forms); with null, a task of lm-eval's own,
    over the data that it names."""
    limit: PositiveInt | None = None
    """The first so many prompts of each alone."""
    max_tokens: PositiveInt | None = None
    """Most tokens of an answer, in place of each benchmark's own."""


ServedName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Serve(Section):
    """How models are served (`ultraif serve`). How many replicas an engine has, and where they run, its pool says."""

    adapters: dict[ServedName, Address] = {}
    """LoRA adapters on the responder's pool, each a model of its own to clients, by its name: folders or hub ids
    (vllm), or the names that they are served under (openai)."""
    replicas: Replicas = Replicas()
    """Copies of the front, which reads requests and asks the engines."""
    max_ongoing: PositiveInt = 128
    """Requests at once in one replica of an engine; further ones wait. While most replicas have as many, Ray Serve adds
    one, up to the `replicas.max` of the pool."""
    max_open: PositiveInt = 256
    """Requests of clients at once in one copy of the front; further ones are told to come again (429)."""
    timeout_s: PositiveFloat = 300.0
    """Seconds until a request is given up (504), waiting included."""
    max_body_bytes: PositiveInt = 1 << 20
    """Largest request (413)."""
    max_tokens: PositiveInt = 4096
    """Most tokens of an answer, whatever a client asks for."""
    max_n: PositiveInt = 16
    """Most answers to one request."""
    max_rounds: PositiveInt = 6
    """Most constraints that one request may have composed."""
    max_questions: PositiveInt = 64
    """Most questions about one response."""
    max_items: PositiveInt = 64
    """Most responses that one request may have judged."""


class Flow(Section):
    """How rows move through Ray Data."""

    rows_per_block: PositiveInt = 16
    """Rows of one batch, one task and one output block: the unit of lost work when a worker dies."""
    rows_held: float = Field(3.0, ge=1)
    """Rows that a replica holds, as multiples of its `rows_in_flight`. A block leaves when its longest row ends, and
    meanwhile the next ones take the places of its short ones. More keeps the engine fuller; what a replica holds is
    lost with it."""
    blocks_between: PositiveInt = 16
    """Most blocks that wait between two chained operators."""
    rows_per_file: PositiveInt | None = None
    """Rows of one output file at least, while there are as many; a thousandth of all when not given, so that a
    large run writes some thousand files and a small one saves every block."""
    breaker_share: float = Field(0.98, gt=0, le=1)
    """Share of a worker's last rows, or of all rows of a step, that fail from which on the run ends, since it cannot be
    the rows. With 1 it never does, nor over training sets without an example."""
    breaker_rows: PositiveInt = 200
    """How many of a worker's last rows are looked at; none before there are as many."""
    progress_s: PositiveFloat = 30.0
    """Seconds between two progress lines where there is no terminal."""


DEFAULT_TEMPLATES = "large"


def _shipped_set(value: Any) -> Any:
    """The set of a name. A file's content is already in the place of its name (`load_recipe`)."""
    value = DEFAULT_TEMPLATES if value is None else value
    if not isinstance(value, str):
        return value
    if value not in shipped_templates():
        raise ValueError(f"there is no such file, and the sets that ship are {_names(shipped_templates())}")
    return load_shipped(value)


class Recipe(Section):
    """Everything a run does."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Also the run's folder, `runs/NAME`, unless `run` says otherwise."""
    prompts: tuple[Address, ...] = ()
    """Files, globs, folders, `s3://` or `gs://` URIs, or hub ids of prompts."""
    run: Address | None = None
    """Folder of the run."""
    seed: int = 0
    """Draws the number of rounds per row and seeds the engines."""
    pools: dict[str, Pool]
    roles: Roles
    templates: Annotated[Templates, BeforeValidator(_shipped_set)] = Field(
        default_factory=lambda: load_shipped(DEFAULT_TEMPLATES)
    )
    """What the roles are told: `large` (models of 8B and more), `small` (models that copy better than they understand),
    or a YAML file of your own in their form. What stands here once the recipe is loaded, and in the fingerprint, is its
    content."""
    ingest: Ingest = Ingest()
    decontaminate: Decontaminate = Decontaminate()
    decompose: Decompose = Decompose()
    synthesize: Synthesize = Synthesize()
    export: Export = Export()
    composer: Composer | None = None
    policy: Policy | None = None
    sft: TrlFields = {}
    """Fields of TRL's `SFTConfig`. Defaults are the paper's."""
    dpo: TrlFields = {}
    """Fields of TRL's `DPOConfig`. Defaults are the paper's."""
    align: Align = Align()
    sets: Sets | None = None
    """Train on these, and make no data."""
    responses: Responses | None = None
    """Judge these, and sample none."""
    train: Train = Train()
    evaluate: Evaluate | None = None
    """What the policy is measured on; nothing when not given."""
    flow: Flow = Flow()
    serve: Serve = Serve()

    @model_validator(mode="before")
    @classmethod
    def _paper_defaults(cls, data: Any) -> Any:
        return _under(_under(data, "sft", _PAPER_SFT), "dpo", _PAPER_DPO)

    def dpo_in_round(self, number: int) -> dict[str, Any]:
        """The fields of TRL's `DPOConfig` in a DPO round; rounds are counted from 1."""
        last = number == self.align.iterations
        over = self.align.last_round_dpo if last else {}
        if over is None:
            several, default_loss = number > 1, self.dpo["loss_type"] == _PAPER_DPO["loss_type"]
            over = {"loss_type": ["nca_pair"]} if several and default_loss else {}
        return self.dpo | over

    def global_batch(self, fields: dict[str, Any]) -> int:
        """Examples of one optimizer step of a training with these TRL fields, however many workers there are. TRL's
        default is 8 a worker.
        """
        per_worker = fields.get("per_device_train_batch_size", 8) * fields.get("gradient_accumulation_steps", 1)
        return int(per_worker * self.train.workers.max)

    @property
    def templates_of_roles(self) -> Templates:
        """The templates, with the system prompts that the roles' settings say instead of the set's."""
        own = {role: settings.system for role, settings in self.roles if "system" in settings.model_fields_set}
        told = {role: getattr(self.templates, role).model_copy(update={"system": s}) for role, s in own.items()}
        return self.templates.model_copy(update=told)

    @property
    def run_folder(self) -> str:
        """Where the run is kept."""
        return self.run or f"runs/{self.name}"

    @model_validator(mode="after")
    def _pools_fit(self) -> "Recipe":
        used = {self.policy.pool} if self.policy and self.policy.pool else set()
        for role in ROLES:
            pool = getattr(self.roles, role).pool
            if pool not in self.pools:
                raise ValueError(f"roles.{role}.pool is '{pool}', which is not defined; there is {_names(self.pools)}")
            used.add(pool)
            if getattr(self.roles, role).thinking_tokens is not None and not getattr(self.pools[pool], "thinking", 1):
                raise ValueError(
                    f"roles.{role}.thinking_tokens is given, but pools.{pool}.thinking is null: that model has no "
                    "thoughts. Remove one of the two"
                )
        if missing := used - set(self.pools):
            raise ValueError(f"policy.pool is {_names(missing)}, which is not defined; there is {_names(self.pools)}")
        if unused := set(self.pools) - used:
            raise ValueError(f"no role uses the pool {_names(unused)}: it would hold an engine for nothing. Remove it")
        return self

    @model_validator(mode="after")
    def _one_gpu_can_be_shared(self) -> "Recipe":
        if self.policy and self.policy.share_gpu:
            for name in (self.policy.pool or self.roles.responder.pool, self.roles.judge.pool):
                pool = self.pools[name]
                if isinstance(pool, OpenAIPool) or pool.gpus != 1:
                    raise ValueError(
                        f"policy.share_gpu is for a policy and a judge with one GPU each, but pools.{name} has "
                        f"{pool.gpus:g}: set its gpus to 1, or leave share_gpu out"
                    )
        return self

    @model_validator(mode="after")
    def _sets_have_a_model(self) -> "Recipe":
        if self.sets and self.sets.composer and not self.composer:
            raise ValueError("sets.composer is given, but not what learns from it: set composer.model")
        if self.sets and (self.sets.sft or self.sets.dpo) and not self.policy:
            raise ValueError("sets for the policy are given, but not what learns from them: set policy.model")
        return self

    @model_validator(mode="after")
    def _one_source_of_data(self) -> "Recipe":
        if self.responses and (self.sets or self.composer):
            raise ValueError("responses are judged as they are: leave sets and composer out, which come in their place")
        return self

    @model_validator(mode="after")
    def _served_names_are_free(self) -> "Recipe":
        if taken := {self.name, *ROLES} & self.serve.adapters.keys():
            raise ValueError(f"serve.adapters names {_names(taken)}, which clients have for the model or a role")
        return self

    @model_validator(mode="after")
    def _trained_models_can_be_served(self) -> "Recipe":
        served = {"composer.model": self.composer and self.roles.composer.pool}
        if self.policy and (self.align.iterations or self.evaluate):
            served["policy.model"] = self.policy.pool or self.roles.responder.pool
        for key, pool in served.items():
            if pool and self.pools[pool].engine == "openai":
                raise ValueError(
                    f"{key} is trained by this run and then served by pool '{pool}', which is a server that cannot "
                    "load it: name a vllm pool (roles.composer.pool, policy.pool)"
                )
        return self


def _under(data: Any, key: str, defaults: dict[str, Any]) -> Any:
    """`data` with defaults laid under its section `key`; what is no mapping is left for pydantic to refuse."""
    said = data.get(key) if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(said, dict | None):
        return data
    return {**data, key: {**defaults, **(said or {})}}


# ---- reading -------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Safe YAML without the traps of YAML 1.1, to which PyYAML holds: 5e-7 is the number it is, `No` and a date are
    texts where a text is wanted, and a key that is given twice is a fault.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - as in PyYAML
        first: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        before: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (first := before.setdefault((key.tag, key.value), key)) is not key:
                line = first.start_mark.line + 1
                raise yaml.MarkedYAMLError(
                    problem=f"'{key.value}' is given twice, first in line {line}: keep one", problem_mark=key.start_mark
                )
        return node


def _word(loader: _Loader, node: yaml.ScalarNode) -> Word:
    return Word(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:bool", _word)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, prompts: Sequence[str] | None = None, run: str | None = None
) -> Recipe:
    """Read a recipe, lay overrides and options over it, and validate the whole.

    A relative path of prompts, of a chat template or of templates means a file beside the recipe where it stands there,
    one in the current directory where it stands in an override or option. Paths are made absolute here, so that they
    mean the same from anywhere, and in the run's own `recipe.yaml`. `templates` and the chat templates of pools are
    read here: their content takes their place.

    Args:
        path: the YAML file, or the name of a recipe that ships with the package, such as `self_alignment`.
        overrides: `section.key=value`, values parsed as YAML.
        prompts: in place of the recipe's `prompts`, where given.
        run: in place of the recipe's `run`, where given.

    Raises:
        RecipeError: naming the key, the value seen and what would be right.
    """
    file_path = _find_recipe(path)
    try:
        with fsspec.open(file_path, "r", encoding="utf-8") as file:
            data = yaml.load(file, _Loader)  # noqa: S506 - a safe one
    except FileNotFoundError:
        raise RecipeError(
            f"{path}: there is no such recipe; those that ship with the package are {', '.join(shipped_recipes())}"
        ) from None
    except (OSError, ImportError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections; this is {_describe(data)}")
    if "://" not in file_path:
        _make_absolute(data, Path(file_path).resolve().parent)
    return build_recipe(data, overrides, prompts=prompts, run=run, where=str(path))


def build_recipe(
    data: dict[str, Any],
    overrides: Sequence[str] = (),
    *,
    prompts: Sequence[str] | None = None,
    run: str | None = None,
    where: str = "recipe",
) -> Recipe:
    """Lay overrides and options over what a recipe says, and validate the whole; see `load_recipe`.

    Raises:
        RecipeError: naming the key, the value seen and what would be right.
    """
    for override in overrides:
        _apply(data, override)
    if prompts:
        data["prompts"] = list(prompts)
    if run is not None:
        data["run"] = run
    _make_absolute(data, Path.cwd())
    return parse_recipe(data, where)


SHIPPED = Path(__file__).parent / "recipes"
"""The recipes that ship with the package."""


def shipped_recipes() -> list[str]:
    """Their names."""
    return sorted(file.stem for file in SHIPPED.glob("*.yaml"))


def _find_recipe(path: str | Path) -> str:
    """A file that is there comes before a shipped recipe of the same name."""
    if not Path(path).is_file() and str(path) in shipped_recipes():
        return str(SHIPPED / f"{path}.yaml")
    return str(path)


_A_FILE = re.compile(r"\.(jsonl|ndjson|json|csv|tsv|txt|parquet)(\.\w+)?$")
"""How the names of files of prompts and examples end, which those on the hub do not."""


def _make_absolute(data: dict[str, Any], folder: Path) -> None:
    """Make the relative paths of prompts, sets, responses, benchmarks and chat templates absolute that are found in
    `folder`, or would be: files by their names, that are not in the current directory either. Anything else may be a
    hub id. Values of a wrong type are left for the validation. Models stay as they are written: their names are part of
    fingerprints, which must be the same in a job's own copy of the project. `templates` and the chat templates of pools
    are read.
    """

    def absolute(value: Any) -> Any:
        if isinstance(value, list):
            return [absolute(one) for one in value]
        if not isinstance(value, str) or not value or "://" in value or value.startswith("/") or "\0" in value:
            return value
        # A file that is there comes before a glob of its name; and a dataset's split is no part of its folder's name.
        there = os.path.exists(folder / value) or os.path.isdir(folder / _OF_A_SPLIT.sub("", value))
        there = there or bool(glob(os.path.join(escape(str(folder)), value)))
        is_meant = there or (_A_FILE.search(value) and not os.path.exists(value) and not glob(value))
        return os.path.normpath(folder / value) if is_meant else value

    def section(of: Any, name: str) -> dict[str, Any]:
        found = of.get(name)
        return found if isinstance(found, dict) else {}

    sets, benchmarks = section(data, "sets"), section(section(data, "evaluate"), "benchmarks")
    against = section(section(data, "decontaminate"), "against")
    for where in (sets, section(sets, "dpo"), benchmarks, against):
        where.update({name: absolute(files) for name, files in where.items()})
    for where, key in (
        (data, "prompts"),
        (section(data, "composer"), "prompts"),
        (section(data, "responses"), "run"),
        *((section(against, name), "files") for name in against),
        (section(data, "policy"), "chat_template"),
    ):
        if key in where:
            where[key] = absolute(where[key])
    for pool in (data["pools"] if isinstance(data.get("pools"), dict) else {}).values():
        if isinstance(pool, dict) and "chat_template" in pool:
            pool["chat_template"] = _text_of(folder, pool["chat_template"])
    named = data.get("templates")
    if named not in shipped_templates() and (text := _text_of(folder, named)) is not named:
        try:
            data["templates"] = yaml.load(text, _Loader)  # noqa: S506 - a safe one
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise RecipeError(f"{named}: not valid YAML: {' '.join(str(error).split())[:300]}") from None


_OF_A_SPLIT = re.compile(r"\[[\w.+-]+\]$")


def _text_of(folder: Path, value: Any) -> Any:
    """The text of the file `value`, an address or a path inside `folder`; anything else as it is."""
    if not isinstance(value, str) or not value or "\n" in value or "\0" in value or _IS_TEMPLATE.search(value):
        return value
    if "://" not in value and not os.path.isfile(folder / value):
        return value
    try:
        with fsspec.open(value if "://" in value else str(folder / value), "r", encoding="utf-8") as file:
            return file.read()
    except (OSError, ImportError, ValueError) as error:
        raise RecipeError(redacted(f"{value}: cannot be read: {error}")) from None


def parse_recipe(data: dict[str, Any], where: str = "recipe") -> Recipe:
    """Validate a recipe that is already a dict.

    Raises:
        RecipeError: one line per fault.
    """
    try:
        made = Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{where}: {_explain(fault)}" for fault in error.errors())) from None
    for key, what in secrets_in(made.model_dump(mode="json")):
        raise RecipeError(f"{where}: {key}: {what} and would stand in manifests; put it into the environment")
    return made


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"'{override}' is not an override: write section.key=value, such as synthesize.k=3")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a safe one
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        why = f" ({error.problem})" if isinstance(error, yaml.MarkedYAMLError) else ""
        raise RecipeError(f"{key}: the value {text!r} is not valid YAML{why}; put quotes around it") from None
    *parents, last = key.split(".")
    for name in parents:
        data[name] = (
            {} if data.get(name) is None else data[name]
        )  # a run's own recipe has `null` where nothing was said
        data = data[name]
        if not isinstance(data, dict):
            raise RecipeError(f"{override}: '{name}' holds {_describe(data)}, not a section")
    data[last] = value


def _explain(fault: Any) -> str:
    loc = [str(part) for part in fault["loc"] if part not in ("vllm", "openai", "simulated") or len(fault["loc"]) == 1]
    where = ".".join(loc) or "the whole"
    if fault["type"] == "extra_forbidden":
        known = _keys_near(loc[:-1], fault)
        close = difflib.get_close_matches(loc[-1], known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(sorted(known))}"
        return f"{where}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{where} is missing"
    hidden = fault["type"] == "secret" or isinstance(fault["input"], dict | BaseModel)
    seen = "" if hidden else f" (got {fault['input']!r:.80})"
    wanted = "wants a section, of `key: value` in lines" if fault["type"].startswith("model_") else fault["msg"]
    mend = (
        ": put quotes around it" if fault["type"] == "string_type" and isinstance(fault["input"], int | float) else ""
    )
    return f"{where}: {wanted.removeprefix('Value error, ')}{seen}{mend}"


def _keys_near(parents: list[str], fault: Any) -> list[str]:
    """The keys of the section at `parents`, found by walking the models."""
    models: list[type[BaseModel]] = [Recipe]
    for name in parents:
        following: list[type[BaseModel]] = []
        for model in models:
            field = model.model_fields.get(name)
            if field is None:  # a key of a dict, such as a pool's name: stay
                following.append(model)
                continue
            following.extend(_models_in(field.annotation))
        models = following
    engine = next((part for part in fault["loc"] if part in ("vllm", "openai", "simulated")), None)
    if engine and parents[:1] == ["pools"]:
        models = [m for m in models if get_args(m.model_fields["engine"].annotation) == (engine,)]
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for arg in get_args(annotation):
        yield from _models_in(arg)


def _names(names: Any) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))


def _describe(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__} ({value!r:.60})"


# ---- fingerprints --------------------------------------------------------------------------------------------------


def fingerprint(settings: dict[str, Any]) -> str:
    """A short hash of settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


class Dumped(dict[str, Any]):
    """A section as a manifest keeps it, which knows which of its values are the defaults."""

    defaults: frozenset[str] = frozenset()


def dumped(section: Section, exclude: Set[str] = frozenset()) -> Dumped:
    """A section as a manifest keeps it.

    Args:
        section: a part of the recipe.
        exclude: keys that are left out.
    """
    found = Dumped(section.model_dump(mode="json", exclude=set(exclude)))
    found.defaults = frozenset(found.keys() - section.model_dump(exclude=set(exclude), exclude_defaults=True).keys())
    for name in found:
        if isinstance(inner := getattr(section, name, None), Section):
            found[name] = dumped(inner)
    return found


def in_json(value: Any) -> Any:
    """Settings with keys and lists as JSON has them."""
    if isinstance(value, Dumped):
        found = Dumped((key, in_json(inner)) for key, inner in value.items())
        found.defaults = value.defaults
        return found
    if isinstance(value, dict):
        return {str(key): in_json(inner) for key, inner in value.items()}
    return [in_json(one) for one in value] if isinstance(value, list | tuple) else value


def difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old → new` for every setting in which two nested dicts differ. One that the old ones do not know yet
    is no difference where it has its default.
    """
    lines = []
    for key in sorted(old.keys() | new.keys()):
        if key not in old and isinstance(new, Dumped) and key in new.defaults:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += difference(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} → {b!r}")
    return lines
