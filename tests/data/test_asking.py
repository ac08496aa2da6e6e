"""Which turns ask nothing, and which short ones do ask."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.data.asking import GO_ON, LONGEST, NODS, asks_nothing


@pytest.mark.parametrize(
    "text",
    [
        "continue", "Continue...", "go on", "Please continue.", "continue?", "can you continue please?", "next",
        "thanks", "Thank you so much!", "THANKS!!! 🙏🏽", "ok", "OK, thanks.", "yes please", "no, thank you",
        "Great 👍\ufe0f", "That’s great, thank you! Please go on", "...", "👍", "lol :)", "gracias",
        "¡Muchas gracias!", "Sí, por favor", "continúa", "S'il te plaît, continue", "merci beaucoup !",
        "Weiter bitte", "Vielen Dank!", "obrigado", "grazie mille", "продолжай", "Спасибо большое!", "继续",
        "请继续。", "好的，谢谢！", "谢谢", "続けてください。", "ありがとうございます！", "계속해줘", "감사합니다",
        "أكمل", "شكرا", "धन्यवाद।", "हाँ", "teşekkürler", "terima kasih",
    ],
)  # fmt: skip
def test_turns_that_ask_nothing(text: str) -> None:
    assert asks_nothing(text)


@pytest.mark.parametrize(
    "text",
    [
        "ls -la", "why?", "why", "translate", "more examples please in Go", "more", "again", "shorter", "Go", "2",
        "A", "?", "ok?", "really?", "right?", "continue in French", "continue with chapter 2",
        "thanks, now as a table", "no, the other one", "yes, but shorter", "next.js", "next steps",
        "thank you letter", "good morning in Thai", "hi", "hello", "&&", "$_", "<br>", "x = y", "next()[0]",
        "please help", "pls fix", "great wall", "fine tuning", "right join", "is it good?", "so what",
        "用中文继续写小说", "翻译", "为什么", "可以吗？", "要約して", "なぜ？", "¿por qué?", "warum", "почему",
        "перевод",
    ],
)  # fmt: skip
def test_short_requests_are_kept(text: str) -> None:
    assert not asks_nothing(text)


@given(st.lists(st.sampled_from([p for p in (GO_ON + NODS).split(",") if p.strip()]), min_size=1, max_size=3))
def test_any_row_of_phrases_asks_nothing_and_one_word_more_asks(phrases: list[str]) -> None:
    text = ", ".join(phrase.strip() for phrase in phrases)
    assert asks_nothing(text.upper() if text.isascii() else text) == (len(text) <= LONGEST)
    assert not asks_nothing(f"{text} otters")
    assert not asks_nothing(f"rewrite {text}")


@given(st.text())
def test_no_text_breaks_it_and_a_long_one_always_asks(text: str) -> None:
    asks_nothing(text)
    assert not asks_nothing(text + "continue " * 50)
