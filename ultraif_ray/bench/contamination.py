"""What decontamination misses and what it hits falsely; and the index of benchmarks that ships, made from their files.

    python -m ultraif_ray.bench.contamination measure NAME=FILE … --clean PROMPTS
    python -m ultraif_ray.bench.contamination index OUT.npz NAME=FILE …

A benchmark's prompts are planted in seven ways, and looked for by each rule. Clean prompts are real ones of other
sources: what is found in them is listed, for a reader to say which of it is false. They are looked at again with stock
phrases behind them, one to four of those that IFEval is made of, as a composer may add them.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ultraif_ray.cli import report_errors
from ultraif_ray.data.benchmarks import read_benchmark
from ultraif_ray.data.ingest import read_prompts
from ultraif_ray.data.readers import find_sources
from ultraif_ray.errors import InputError
from ultraif_ray.evaluate.punkt import prepare_checkers
from ultraif_ray.method.contamination import GPT3, OURS, TULU3, Index, Rule, contaminated_by, known, save
from ultraif_ray.method.texts import words
from ultraif_ray.recipe import Ingest
from ultraif_ray.records import Prompt
from ultraif_ray.report.show import console

RULES = {"ours": OURS, "any 13-gram": GPT3, "half of 8-grams": TULU3}
"""Ours beside GPT-3's, and one like Tülu 3's."""


def edited(text: str, share: float, vocabulary: Sequence[str], draw: random.Random) -> str:
    """A text of whose words each is edited with this probability: replaced, left out, or put behind another one."""
    made: list[str] = []
    for word in text.split(" "):
        if draw.random() >= share:
            made.append(word)
        else:
            made += draw.choice([[draw.choice(vocabulary)], [], [draw.choice(vocabulary), word]])
    return " ".join(made)


def recased(text: str) -> str:
    """A text in capitals, with other punctuation."""
    return re.sub(r"[.,;:!?]", " -", text).upper()


def plantings(vocabulary: Sequence[str], around: Sequence[str], seed: int = 0) -> dict[str, Callable[[str], str]]:
    """The seven ways to plant a prompt.

    Args:
        vocabulary: words that editing brings in.
        around: texts to wrap prompts in, one before and one behind.
        seed: of what is drawn.
    """
    draw = random.Random(seed)

    def wrapped(text: str) -> str:
        return f"{draw.choice(around)[:600]}\n\n{text}\n\n{draw.choice(around)[:600]}"

    return {
        "exact": lambda text: text,
        "recased": recased,
        "5 % edited": lambda text: edited(text, 0.05, vocabulary, draw),
        "10 % edited": lambda text: edited(text, 0.10, vocabulary, draw),
        "20 % edited": lambda text: edited(text, 0.20, vocabulary, draw),
        "wrapped": wrapped,
        "wrapped, 10 % edited": lambda text: wrapped(edited(text, 0.10, vocabulary, draw)),
    }


def missed(index: Index, prompts: Iterable[str], plant: Callable[[str], str]) -> int:
    """How many planted prompts are not found."""
    return sum(index.find(plant(prompt)) is None for prompt in prompts)


def clean_prompts(files: tuple[str, ...], limit: int) -> Iterator[Prompt]:
    """The first prompts of conversations in files, each once."""
    seen: set[int] = set()
    for item in read_prompts(find_sources(files), Ingest(turns="first")):
        if isinstance(item, Prompt) and item.id not in seen:
            seen.add(item.id)
            yield item
            if len(seen) >= limit:
                return


def with_stock_phrases(prompts: Iterable[str], seed: int = 0) -> Iterator[tuple[str, str]]:
    """Prompts of ordinary length, each without and with one to four phrases that lm-eval's IFEval makes.

    Raises:
        RecipeError: the extra `eval` is not installed.
    """
    prepare_checkers()
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    kinds = [kind for name, kind in INSTRUCTION_DICT.items() if name != "combination:repeat_prompt"]
    random.seed(seed)  # lm-eval draws from it
    for number, prompt in enumerate(prompt for prompt in prompts if 4 < len(prompt.split()) < 80):
        phrases = [random.choice(kinds)("").build_description() for _ in range(number % 4 + 1)]
        yield prompt, " ".join([prompt, *phrases])


# ---- the commands ----------------------------------------------------------------------------------------------------

app = typer.Typer(add_completion=False, no_args_is_help=True)

Benchmarks = Annotated[list[str], typer.Argument(metavar="NAME=FILE …", help="A benchmark's name, and its files.")]


def read_all(benchmarks: list[str]) -> dict[str, list[tuple[str, str]]]:
    """The ids and texts of benchmarks, each given as `NAME=FILE`, by name.

    Raises:
        InputError: one is given in another way, or cannot be read.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for one in benchmarks:
        name, equals, file = one.partition("=")
        if not equals:
            raise InputError(f"{one}: wants NAME=FILE, such as ifeval=input_data.jsonl")
        found.setdefault(name, []).extend((prompt.id, prompt.text) for prompt in read_benchmark((file,)))
    return found


@app.command()
def index(out: Annotated[Path, typer.Argument(metavar="OUT.npz")], benchmarks: Benchmarks) -> None:
    """Make an index of benchmarks: of hashes, without any text."""
    every = read_all(benchmarks)
    prompts = [known(name, prompt, text) for name, some in every.items() for prompt, text in some]
    out.write_bytes(save(prompts))
    typer.echo(f"{out}: {len(prompts)} prompts of {', '.join(every)}")


@app.command()
def measure(
    benchmarks: Benchmarks,
    planted: Annotated[str, typer.Option(help="The benchmark whose prompts are planted; all where empty.")] = "",
    clean: Annotated[list[str] | None, typer.Option(help="Files of real prompts that hold none of them.")] = None,
    limit: Annotated[int, typer.Option(help="How many clean prompts are looked at.")] = 10_000,
) -> None:
    """Plant prompts and look for them by each rule; then look in clean prompts, and list what is found."""
    every = read_all(benchmarks)
    texts = [text for name, some in every.items() if planted in ("", name) for _, text in some]
    clean_ones = list(clean_prompts(tuple(clean or ()), limit))
    vocabulary = sorted({word for some in every.values() for _, text in some for word in words(text)})
    around = [prompt.query for prompt in clean_ones] or texts
    ways = list(plantings(vocabulary, around))
    stock = list(with_stock_phrases(prompt.query for prompt in clean_ones))
    title = (
        f"of {len(texts)} planted are missed; of {len(clean_ones)} clean and {len(stock)} with stock phrases are hit"
    )
    shown = Table("rule", *ways, "clean", "stock", "texts/s", title=title, box=None)
    out = console()
    for name, rule in RULES.items():
        index = _index(every, rule)
        counts = [missed(index, texts, plant) for plant in plantings(vocabulary, around).values()]
        begun = time.process_time()
        found = [(prompt, hit) for prompt in clean_ones if (hit := index.find(prompt.query))]
        speed = len(clean_ones) / max(time.process_time() - begun, 1e-9)
        made = sum(contaminated_by(before, after, index) is not None for before, after in stock)
        shown.add_row(name, *map(str, (*counts, len(found), made)), f"{speed:.0f}")
        if rule is OURS:
            held = {(benchmark, prompt): text for benchmark, some in every.items() for prompt, text in some}
            for prompt, hit in sorted(found, key=lambda one: -one[1].share):
                out.print(f"{hit.share:.2f} {prompt.source} ~ {hit.benchmark} {hit.prompt}", markup=False)
                out.print(f"    {prompt.query[:160]!r}\n    {held[hit.benchmark, hit.prompt][:160]!r}", markup=False)
    out.print(shown)


def _index(every: dict[str, list[tuple[str, str]]], rule: Rule) -> Index:
    return Index([known(name, prompt, text, rule.n) for name, some in every.items() for prompt, text in some], rule)


if __name__ == "__main__":
    report_errors(app)
