"""What decontamination finds, and what it lets by."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraif_ray.bench.contamination import missed, plantings
from ultraif_ray.errors import RecipeError
from ultraif_ray.method.contamination import (
    GPT3,
    SHIPPED,
    TULU3,
    Index,
    Overlap,
    Rule,
    contaminated_by,
    guard,
    index_of,
    known,
    load,
    save,
)
from ultraif_ray.method.texts import words
from ultraif_ray.recipe import BENCHMARKS, Decontaminate

SUBJECTS = [
    "a lighthouse keeper who teaches gulls to count", "why bread rises faster in the kitchen of my grandmother",
    "the first bicycle race between two mountain villages", "a letter to the mayor about the missing park benches",
    "how a small harbour town repaired its clock tower", "a robot that is afraid of the sound of rain",
    "the best way to store winter apples in a damp cellar", "an argument between two chess players on a night train",
    "a job advertisement for a junior beekeeper in Norway", "the rules of an invented card game for five players",
    "an itinerary for three days among the lakes of Karelia", "what a violin maker looks for in a piece of maple",
    "a product description of shoes that squeak on purpose", "the diary of a cat that moved to a lighthouse ship",
    "how tides were predicted before there were computers", "a speech for the retirement of a school librarian",
]  # fmt: skip
DEMANDS = [
    "Your entire response should be in English, and in all lowercase letters.",
    "Your answer must contain a title, wrapped in double angular brackets.",
    "Highlight at least 3 sections in your answer with markdown.",
    "There should be 4 paragraphs. Paragraphs are separated with the markdown divider.",
    "Make sure that your response does not contain any commas.",
]  # fmt: skip
BENCHMARK = [f"Write {subject}. {demand}" for subject, demand in product(SUBJECTS, DEMANDS)]
"""In the manner of IFEval: stock phrases, and something of its own."""
AROUND = [
    "I have been looking at this for a while, and cannot find what is wrong with it. Here is what I have so far. " * 3,
    "Act as an editor. Keep the tone of the text, mend its grammar, and tell me afterwards what you have changed. " * 3,
]
INDEX = Index(known("own", str(number), text) for number, text in enumerate(BENCHMARK))
VOCABULARY = sorted({word for text in (*BENCHMARK, *AROUND) for word in words(text)})


@pytest.mark.parametrize(
    ("way", "rate"),
    [("exact", 0), ("recased", 0), ("5 % edited", 0), ("10 % edited", 0.01), ("20 % edited", 0.05), ("wrapped", 0),
     ("wrapped, 10 % edited", 0.01)],
)  # fmt: skip
def test_what_is_planted_is_found(way: str, rate: float) -> None:
    lost = sum(missed(INDEX, BENCHMARK, plantings(VOCABULARY, AROUND, seed)[way]) for seed in range(2))
    assert lost <= rate * 2 * len(BENCHMARK)


def test_the_rules_of_others_miss_what_is_edited() -> None:
    counts = {}
    for rule in (GPT3, TULU3):
        index = Index((known("own", str(n), text, rule.n) for n, text in enumerate(BENCHMARK)), rule)
        ways = plantings(VOCABULARY, AROUND)
        counts[rule.n] = [missed(index, BENCHMARK, ways[way]) for way in ("exact", "wrapped", "20 % edited")]
    assert counts[13][:2] == counts[8][:2] == [0, 0]
    assert min(counts[13][2], counts[8][2]) > len(BENCHMARK) / 2


def test_any_n_words_in_a_row_or_half_of_them_as_others_count() -> None:
    prompt = " ".join(f"w{i}" for i in range(30))
    thirteen = Index([known("b", "1", prompt, 13)], GPT3)
    assert thirteen.find("so " + " ".join(f"w{i}" for i in range(5, 18)) + " and") == Overlap(
        "b", "1", round(1 / 18, 4)
    )
    assert (
        thirteen.find(" ".join(f"w{i}" for i in range(12)) + " so " + " ".join(f"w{i}" for i in range(12, 24))) is None
    )
    eight = Index([known("b", "1", prompt, 8)], TULU3)  # of 23 8-grams
    assert eight.find(" ".join(f"w{i}" for i in range(18))) is None
    found = eight.find(" ".join(f"w{i}" for i in range(19)))
    assert found
    assert found.share == pytest.approx(12 / 23, abs=1e-4)


@pytest.mark.parametrize("index", [INDEX, guard(Decontaminate())])
def test_stock_phrases_alone_are_no_hit(index: Index) -> None:
    for demand in DEMANDS:
        assert index.find(f"Tell me how to repot a cactus. {demand}") is None
    assert index.find(f"Plan a week of meals for a diver. {' '.join(DEMANDS)}") is None


def test_of_two_prompts_the_one_is_named_of_which_there_is_more() -> None:
    assert INDEX.find(BENCHMARK[7]) == Overlap("own", "7", 1.0)
    found = INDEX.find(f"{BENCHMARK[7]} And do it twice.")
    assert found == Overlap("own", "7", 1.0)
    assert str(Overlap("own", "7", 0.876)) == "88% of own 7"


def test_words_that_are_spread_over_a_long_text_are_no_prompt() -> None:
    prompt = BENCHMARK[0]
    pairs = [f"{a} {b}" for a, b in zip(prompt.split(), prompt.split()[1:], strict=False)]
    assert INDEX.find(" ".join(pairs)) is not None
    filler = " ".join(f"x{i}" for i in range(40))
    assert INDEX.find(f" {filler} ".join(pairs)) is None
    anywhere = Index([known("own", "0", prompt)], Rule(window=None))
    assert anywhere.find(f" {filler} ".join(pairs)) is not None


def test_a_short_prompt_is_found_only_where_the_text_is_little_else() -> None:
    index = Index([known("b", "1", "Generate a Python dictionary."), known("b", "2", BENCHMARK[0])])
    assert index.find("generate a python dictionary") == Overlap("b", "1", 1.0)
    assert index.find("Generate a Python list.") is None
    assert index.find("Generate a Python dictionary. " + "Then explain what each of its keys is for. " * 3) is None


@settings(max_examples=30)
@given(st.sampled_from(BENCHMARK), st.text(max_size=200), st.text(max_size=200))
def test_a_prompt_is_found_whatever_stands_around_it(prompt: str, before: str, behind: str) -> None:
    found = INDEX.find(f"{before}\n{prompt}\n{behind}")
    assert found
    assert found.share == pytest.approx(1.0)


@settings(max_examples=30)
@given(st.text())
def test_any_text_can_be_looked_at(text: str) -> None:
    found = INDEX.find(text)
    assert found is None or found.share >= 0.45
    assert Index([]).find(text) is None


def test_a_benchmark_has_a_share_of_its_own() -> None:
    half = " ".join(BENCHMARK[0].split()[:8])
    assert Index(INDEX.prompts).find(half) is None
    assert Index(INDEX.prompts, shares={"own": 0.2}).find(half)


def test_only_what_composing_made_is_held_against_it() -> None:
    plain, whole = "Write " + SUBJECTS[3] + ".", BENCHMARK[15]
    assert contaminated_by("Tell me a story.", whole, INDEX) == INDEX.find(whole)
    assert contaminated_by(whole, f"{whole} Use two lines.", INDEX) is None
    assert contaminated_by(plain, whole, None) is None


# ---- files -----------------------------------------------------------------------------------------------------------


def test_an_index_is_kept_in_a_file_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(save(INDEX.prompts))
    back = load(str(tmp_path / "a.npz"))
    assert [(one.benchmark, one.prompt, one.words, one.grams.tolist()) for one in back] == [
        (one.benchmark, one.prompt, one.words, one.grams.tolist()) for one in INDEX.prompts
    ]
    (tmp_path / "b.npz").write_bytes(save([]))
    assert load(str(tmp_path / "b.npz")) == []


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_what_is_no_index_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.npz"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RecipeError, match=r"a\.npz: no index of benchmarks"):
        load(str(file))


def test_the_index_that_ships_holds_four_benchmarks_as_hashes_alone() -> None:
    prompts = load(str(SHIPPED))
    counts = {name: sum(one.benchmark == name for one in prompts) for name in BENCHMARKS}
    assert counts == {"ifeval": 541, "ifbench": 300, "followbench": 927, "gsm8k": 1319}
    assert all((np.diff(one.grams.astype(np.int64)) > 0).all() for one in prompts)  # in no order of the text
    with np.load(SHIPPED, allow_pickle=False) as held:
        texts = {name: held[name] for name in held.files if held[name].dtype.kind == "U"}
    assert set(texts) == {"benchmark", "prompt"}
    assert max(len(one) for one in texts["prompt"]) < 30  # ids


def test_texts_are_hashed_as_they_were_for_the_index_that_ships() -> None:
    """Where this changes, the index must be made anew: it would find nothing, and say so nowhere."""
    assert known("b", "1", "Write about rain, in 2 lines: 写诗").grams.tolist() == [
        155021666,
        270234846,
        318549807,
        2600928114,
        2984208253,
        3388168975,
        4289529566,
    ]


def test_a_recipe_chooses_what_is_kept_out() -> None:
    assert {one.benchmark for one in index_of(Decontaminate(benchmarks=("gsm8k",))).prompts} == {"gsm8k"}  # type: ignore[union-attr]
    assert index_of(Decontaminate(benchmarks="none")) is None
    more = index_of(Decontaminate(benchmarks="none"), INDEX.prompts)
    assert more
    assert more.find(BENCHMARK[0])


def test_an_index_of_the_recipes_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(save(INDEX.prompts))
    found = guard(Decontaminate(benchmarks="none", index=str(tmp_path / "a.npz")))
    assert found
    assert found.find(BENCHMARK[0]) == Overlap("own", "0", 1.0)
