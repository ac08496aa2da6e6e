from typing import Any

import pytest
from transformers import AutoTokenizer

from ultraif_ray.bench.requests import compare, microseconds_of_a_token, rows_of
from ultraif_ray.engine.models import resolve_model
from ultraif_ray.errors import RunError

pytestmark = pytest.mark.long  # loads vLLM


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(resolve_model("packaged", weights=False))


@pytest.mark.parametrize("judge", ["rationale", "logprob"])
def test_the_ways_ask_the_same(tokenizer: Any, judge: str) -> None:
    found = compare(tokenizer, judge, 3)
    assert {one.requests for one in found.values()} == {found["kept"].requests}
    assert found["kept"].requests > 9
    assert found["kept"].prompt_tokens == found["anew"].prompt_tokens > 1000 * 3


class Forgetful:
    """A tokenizer that leaves out a token of what is long."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def __call__(self, text: str, **options: Any) -> Any:
        read = self._tokenizer(text, **options)
        return {"input_ids": read["input_ids"][len(text) > 5000 :]}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_ways_that_ask_for_other_things_are_no_measurement(tokenizer: Any) -> None:
    with pytest.raises(RunError, match="this measured nothing: the ways asked for other things"):
        compare(Forgetful(tokenizer), "logprob", 2)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_vllm_takes_the_tokens_in(tokenizer: Any, at_once: bool, counted: bool) -> None:
    assert microseconds_of_a_token(tokenizer, at_once=at_once, counted=counted) > 0


def test_no_two_rows_are_alike() -> None:
    assert len({row.query for row in rows_of(100)}) == len({row.id for row in rows_of(100)}) == 100
