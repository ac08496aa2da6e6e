"""lm-eval over our engines: what its tasks ask becomes rows, and the rows that come back answer it.

lm-eval builds every request before it looks at an answer, so all of them, of every task, go through the engines in one
step (`requests_of`); then lm-eval itself builds them again and scores what the step wrote (`score`).
"""

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager

from ultraif_ray.errors import InputError, RecipeError
from ultraif_ray.evaluate.punkt import prepare_checkers
from ultraif_ray.evaluate.verifiable import same_draws, unscored
from ultraif_ray.records import Asked, Message, Turn, content_hash

TASKS = Path(__file__).parent / "tasks"
"""The tasks over local files, one YAML file each, in lm-eval's form."""

Tasks = dict[str, Any]
"""Tasks as lm-eval's manager loads them."""


def local_tasks() -> list[str]:
    """The names of the tasks over local files."""
    return sorted(file.stem for file in TASKS.glob("*.yaml"))


def load_tasks(benchmarks: Mapping[str, str | None], max_tokens: int | None = None) -> Tasks:
    """Load tasks.

    Args:
        benchmarks: names, each with its file; None for a task of lm-eval's own with the data that it names.
        max_tokens: most tokens of an answer, in place of the tasks' own.

    Raises:
        RecipeError: there is no such task.
        InputError: a file cannot be read, or is not of the task's form.
    """
    prepare_checkers()
    loaded: Tasks = {"tasks": {}, "groups": {}}
    for name, file in benchmarks.items():
        try:
            with same_draws(DEFAULT_RANDOM_SEED), redirect_stderr(io.StringIO()):  # bars
                found = _over_file(name, file) if file else _of_lm_eval(name)
        except (RecipeError, InputError):
            raise
        except Exception as error:  # of `datasets`, its builders and lm-eval's templates, which have no base in common
            why = " ".join(str(error.__cause__ or error).split())[:300]
            raise InputError(f"benchmark '{name}': {file or 'its data'}: {why}") from error
        for part in ("tasks", "groups"):
            loaded[part] |= found.get(part, {})
    for name, task in loaded["tasks"].items():
        if task.get_config("unsafe_code"):
            raise RecipeError(f"benchmark '{name}' runs code that models wrote, which is not done here")
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        if max_tokens and task.get_config("output_type") == "generate_until":
            given = task.get_config("generation_kwargs") or {}
            names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
            kept = {key: value for key, value in given.items() if key not in names}
            task.set_config(key="generation_kwargs", value=kept | {"max_gen_toks": max_tokens})
    return loaded


def _of_lm_eval(name: str) -> Tasks:
    manager = TaskManager()
    if not manager.match_tasks([name]):
        raise RecipeError(f"there is no benchmark '{name}', here or in lm-eval {version('lm-eval')}")
    return dict(manager.load([name]))


def _over_file(name: str, file: str) -> Tasks:
    """A task of `tasks/` with its file: lm-eval takes either from YAML alone."""
    if name not in local_tasks():
        raise RecipeError(
            f"benchmark '{name}' is not read from a file; {', '.join(local_tasks())} are. Without a file it is a task "
            "of lm-eval's own"
        )
    source: dict[str, Any] = {"data_files": {"test": file}}
    with TemporaryDirectory() as folder:
        whole = Path(folder) / f"{name}.yaml"
        # Nothing is left in the cache of `datasets`, and nothing old is found there.
        data = source | {"cache_dir": folder, "keep_in_memory": True}
        task_file = {"include": str(TASKS / f"{name}.yaml"), "dataset_kwargs": data}
        whole.write_text(json.dumps(task_file), encoding="utf-8")
        found = TaskManager(include_defaults=False).load([str(whole)])
    (task,) = found["tasks"].values()
    task.set_config(key="dataset_kwargs", value=source)
    wanted, has = task.get_config("metadata").get("fields", []), task.eval_docs.features
    if missing := [field for field in wanted if field not in has]:  # lm-eval would ask for the field by its name
        raise InputError(
            f"benchmark '{name}': {file}: no {', '.join(missing)}: a record wants {', '.join(wanted)}, and has "
            f"{', '.join(has)}"
        )
    return dict(found)


def requests_of(tasks: Tasks, limit: int | None = None) -> Iterator[Asked]:
    """All that the tasks ask, each once, as rows without answers."""
    seen: set[int] = set()
    for name, task in tasks["tasks"].items():
        with same_draws(DEFAULT_RANDOM_SEED), redirect_stderr(io.StringIO()):  # a bar for every task
            task.build_all_requests(
                limit=limit, apply_chat_template=True, fewshot_as_multiturn=True, chat_template=_as_text
            )
        for row in _rows([one for instance in task.instances for one in [instance] * instance.repeats], name):
            if row.id not in seen:
                seen.add(row.id)
                yield row


def score(tasks: Tasks, answer: Callable[[list[Asked]], list[Asked]], limit: int | None = None) -> dict[str, Any]:
    """Let lm-eval score answers: its results, with the samples under `samples`; under `unscored`, by task, the prompts
    that could not be scored, each with the reason.

    Args:
        tasks: the tasks.
        answer: gets rows as `requests_of` makes them, and returns them answered, in the same order.
        limit: the first so many documents of each task alone.
    """
    begun = time.time()
    with same_draws(DEFAULT_RANDOM_SEED), redirect_stderr(io.StringIO()):
        found: dict[str, Any] = evaluate(
            OverEngines(answer), tasks, limit=limit, apply_chat_template=True, fewshot_as_multiturn=True
        )
    left_out = {name: named for name, samples in found["samples"].items() if (named := unscored(samples))}
    about = {"date": begun, "lm_eval_version": version("lm-eval"), "fewshot_as_multiturn": True}
    return found | about | ({"unscored": left_out} if left_out else {})


def without_tasks() -> dict[str, Any]:
    """The results of no task, to put other benchmarks into."""
    keys = ("results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "samples")
    return {key: {} for key in keys} | {"date": time.time(), "lm_eval_version": version("lm-eval")}


class OverEngines(LM):
    """A model whose answers come from elsewhere: it hands on what lm-eval asks, as rows.

    Chats are handed from lm-eval to here in its own form for servers, JSON in a string: the engines apply templates.
    """

    tokenizer_name = "of the engine"

    def __init__(self, answer: Callable[[list[Asked]], list[Asked]]):
        super().__init__()
        self._answer = answer

    def apply_chat_template(self, chat_history: list[Message], add_generation_prompt: bool = True) -> str:
        """The chat, for `_rows` to read."""
        return _as_text(chat_history, add_generation_prompt)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What was answered; nothing where a request failed, which then counts as wrong."""
        rows = self._answer(list(_rows(requests)))
        return [row.response.text if row.response else "" for row in rows]

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The natural-log probability of each continuation, and whether it is the likeliest text.

        Raises:
            RecipeError: one has none.
        """
        rows = self._answer(list(_rows(requests)))
        if failed := [row for row in rows if row.logprob is None]:
            why = failed[0].failures[-1].reason if failed[0].failures else "answers that were given have no probability"
            raise RecipeError(f"{len(failed)} of {len(rows)} continuations have no probability: {why}")
        return [(float(row.logprob or 0.0), bool(row.greedy)) for row in rows]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Not for chat models.

        Raises:
            RecipeError: always.
        """
        raise RecipeError(_NO_ROLLING)


_NO_ROLLING = "perplexity of whole texts is not measured here: leave out tasks of the type loglikelihood_rolling"


def _as_text(messages: list[Message], add_generation_prompt: bool = True) -> str:
    if not add_generation_prompt:
        raise RecipeError("a task that begins the answer itself (gen_prefix) cannot be asked through a chat template")
    return json.dumps(messages, ensure_ascii=False)


def _rows(requests: list[Instance], source: str = "") -> Iterator[Asked]:
    """Requests as rows. Equal requests have the same id, but for repeated samples, which are told apart."""
    repeats: Counter[int] = Counter()
    for request in requests:
        if request.request_type == "loglikelihood_rolling":
            raise RecipeError(_NO_ROLLING)
        context, rest = request.args
        *before, last = json.loads(context) if context else [{"role": "user", "content": ""}]
        asked = {"continuation": rest} if isinstance(rest, str) else _generation(rest)
        content = [before, last, asked]
        key = content_hash(content)
        number = repeats[key] if asked.get("temperature") else 0
        repeats[key] += 1
        yield Asked(
            id=content_hash([*content, number]),
            query=last["content"],
            history=[Turn.model_validate(turn) for turn in before],
            source=f"{source}:{request.doc_id}",
            **asked,
        )


def _generation(given: dict[str, Any]) -> dict[str, Any]:
    known = dict(normalize_gen_kwargs(given))
    return {
        "max_tokens": known["max_gen_toks"],
        "temperature": known["temperature"],
        "top_p": float(known.get("top_p", 1.0)),
        "stop": known["until"],
    }


def answers_by_id(found: Mapping[int, Asked]) -> Callable[[list[Asked]], list[Asked]]:
    """Answers that a step wrote, by the ids of its rows; for `score`."""
    return lambda rows: [found[row.id] for row in rows]
