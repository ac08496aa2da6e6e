import pytest

from ultraif_ray.data.language import LOOKED_AT, language_of


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Write a poem about the sea.", "en"),
        ("MAKE ME A LIST OF FAST CARS", "en"),
        ("Écris un poème sur la mer.", "fr"),
        ("Hola, ¿cómo estás hoy?", "es"),
        ("Schreibe mir bitte\nein Gedicht über das Meer", "de"),
        ("写一首关于大海的诗", "zh"),
        ("こんにちは", "ja"),
        ("Напиши стихотворение о море", "ru"),
        ("", ""),
        ("12 + 34 = ?", ""),
        ("def f(x): return x", ""),
        ("Write a poem about the sea. " * 60 + "Écris un poème sur la mer. " * 600, "en"),
    ],
)
def test_the_language_that_a_text_is_mostly_in(text: str, code: str) -> None:
    assert language_of(text) == code


def test_no_more_than_the_beginning_of_a_text_is_looked_at() -> None:
    english = "Tell me what this says, please, and why it matters to us. " * 20
    assert language_of(english[:LOOKED_AT] + "写一首关于大海的诗" * 1000) == "en"
