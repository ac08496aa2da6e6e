"""Our checkers beside those of IFEval, as the library if-verifiable has them, on the families that both have.

What differs on purpose is not asked here: words are counted as people count them, keywords are whole words, paragraphs
are set apart by blank lines (docs/method.md).
"""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraif_ray.method.checkers.registry import CHECKERS, holds
from ultraif_ray.records import Check


@pytest.fixture(scope="module")
def theirs() -> Any:
    """The library's registry. What it would download on import is for checkers that are not asked here."""
    import nltk

    patch = pytest.MonkeyPatch()
    patch.setattr(nltk, "download", lambda *args, **kwargs: False)
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    patch.undo()
    return INSTRUCTION_DICT


ASKED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "words", "relation": "fewer than", "number": 7}, {"relation": "less than", "num_words": 7}),
    ({"name": "words", "relation": "at least", "number": 7}, {"relation": "at least", "num_words": 7}),
    ({"name": "avoids", "texts": ["rain"]}, {"forbidden_words": ["rain"]}),
    ({"name": "letters", "relation": "at least", "number": 3, "texts": ["a"]},
     {"letter": "a", "let_frequency": 3, "let_relation": "at least"}),
    ({"name": "ends_with", "texts": ["the end"]}, {"end_phrase": "the end"}),
    ({"name": "in_quotation_marks"}, {}),
    ({"name": "without_commas"}, {}),
    ({"name": "title_in_brackets"}, {}),
    ({"name": "bullet_points", "number": 2}, {"num_bullets": 2}),
    ({"name": "highlights", "relation": "at least", "number": 2}, {"num_highlights": 2}),
    ({"name": "placeholders", "relation": "at least", "number": 2}, {"num_placeholders": 2}),
    ({"name": "labelled_sections", "relation": "at least", "number": 2, "texts": ["Section"]},
     {"section_spliter": "Section", "num_sections": 2}),
    ({"name": "postscript", "texts": ["PS:"]}, {"postscript_marker": "PS:"}),
    ({"name": "is_json"}, {}),
]  # fmt: skip

PARTS = [
    "Rain falls on the old town.", '"All of it', 'and of that"', "and, then,", "* one", "- two", "A *bold* word",
    "**Two words**", "[name]", "[your address]", "Section 1", "Section 2", "<<Title>>", "PS: More", "The end",
    "banana", "Let it rain", '{"a": 1}', '```json\n{"b": {"c": 2}}\n```',
]  # fmt: skip
"""Lines as answers to IFEval have them; `hypothesis` puts answers together of them."""

ANSWERS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=6, unique=True).map("\n".join)


@settings(max_examples=60)
@given(answer=ANSWERS)
def test_on_shared_families_they_say_the_same(theirs: Any, answer: str) -> None:
    for ours, arguments in ASKED:
        check = Check.model_validate(ours)
        benchmark = CHECKERS[check.name].benchmark
        their_checker = theirs[benchmark](benchmark)
        their_checker.build_description(**arguments)
        assert holds(answer, check) is bool(their_checker.check_following(answer)), check.line


@pytest.mark.long  # langdetect reads all of its profiles
@pytest.mark.parametrize(
    ("language", "code", "answer"),
    [
        ("German", "de", "Das Wetter ist heute schön, und wir gehen zusammen in den Park."),
        ("French", "fr", "Il fait beau aujourd'hui, et nous allons au parc avec les enfants."),
        ("Russian", "ru", "Сегодня хорошая погода, и мы идём в парк вместе с детьми."),
        ("Hindi", "hi", "आज मौसम अच्छा है और हम बच्चों के साथ पार्क जा रहे हैं।"),
        ("English", "en", "The weather is nice today, and we are going to the park together."),
    ],
)
def test_of_a_plain_sentence_they_say_the_same_language(theirs: Any, language: str, code: str, answer: str) -> None:
    for wanted, its_code in (("German", "de"), ("English", "en"), (language, code)):
        detector = theirs["language:response_language"]("language:response_language")
        detector.build_description(language=its_code)
        assert detector.check_following(answer) is (its_code == code)
        assert holds(answer, Check(name="in_language", texts=[wanted])) is (its_code == code)
