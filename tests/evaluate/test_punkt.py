"""The data that lm-eval's checkers need, found without the network."""

import importlib.util
from pathlib import Path

import pytest

from ultraif_ray.errors import RecipeError
from ultraif_ray.evaluate.punkt import check_extra, prepare_checkers


@pytest.fixture
def own_places(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """NLTK's places, put back afterwards."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.delenv("NLTK_DATA", raising=False)
    return monkeypatch


def test_sentences_are_split_by_the_trained_punkt(own_places: pytest.MonkeyPatch) -> None:
    prepare_checkers()
    import nltk

    assert nltk.tokenize.sent_tokenize("Dr. Who met Mrs. Smith. He left.") == ["Dr. Who met Mrs. Smith.", "He left."]


def test_languages_are_told_the_same_each_time(own_places: pytest.MonkeyPatch) -> None:
    prepare_checkers()
    import langdetect

    assert langdetect.DetectorFactory.seed == 0


def test_without_punkt_one_line_says_what_to_install(own_places: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    own_places.setattr("importlib.util.find_spec", lambda name: None if name == "llama_index" else find(name))
    with pytest.raises(RecipeError, match="pip install --no-deps llama-index-core") as refused:
        prepare_checkers()
    assert "\n" not in str(refused.value)


def test_a_folder_of_the_users_own_comes_first(own_places: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokenizers" / "punkt_tab").mkdir(parents=True)
    own_places.setenv("NLTK_DATA", str(tmp_path))
    prepare_checkers()
    import nltk

    assert str(nltk.data.find("tokenizers/punkt_tab")).startswith(str(tmp_path))


def test_without_the_extra_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="need the extra `eval`, and lm_eval is missing: run `make install`"):
        check_extra()
