import pytest

from ultraif_ray.method.answers import LEAST, no_answer, refuses, repetition
from ultraif_ray.recipe import Synthesize

PROSE = (
    "The keeper climbed the stairs before dawn and lit the lamp with a long brass match. Ships passed far out, small "
    "as matchboxes, and one of them answered with its horn. He wrote the hour into his book, drank his tea standing, "
    "and thought of the letter that lay unopened on the table since Tuesday, under the blue jug with the broken handle."
)
LOOP = "I think that the answer is blue because the sky is blue and so " + "the answer is that it is blue, since " * 12


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I am sorry, but I cannot assist with this request.",
        "I cannot provide instructions for that.",
        "Sorry! I'm not able to write that.",
        "As an AI language model, I don't have access to your files.",
        "I won’t create this text.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Je suis désolé, mais je ne peux pas répondre.",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "抱歉，我无法提供帮助。",
    ],
)
def test_a_refusal_is_told_by_how_it_opens(text: str) -> None:
    assert refuses(text)
    assert no_answer(text, Synthesize(refusals="drop")) == "refusal"
    assert no_answer(text, Synthesize()) == ""


@pytest.mark.parametrize(
    "text",
    [
        "I can help with that: here is a list.",
        "You cannot write to this file, since it is read-only. Run chmod first.",
        f"{PROSE} I cannot help you, said the keeper.",
        "I'm sorry to hear that. Here is what you can do.",
        "Dear Sir, I am writing to apologise for the delay.",
        "If the parts do not fit, I cannot recommend forcing them.",
        "",
    ],
)
def test_what_is_no_refusal(text: str) -> None:
    assert not refuses(text)


def test_a_text_that_goes_round_in_circles_is_told_by_its_runs_of_words() -> None:
    assert repetition(PROSE) == 0
    assert repetition(LOOP) > 0.8
    assert repetition("so " * (LEAST - 1)) == 0  # short
    assert repetition("so " * LEAST) == 1
    settings = Synthesize(repetitive=0.5)
    assert [no_answer(text, settings) for text in (PROSE, LOOP)] == ["", "repetitive"]
    assert no_answer(LOOP, Synthesize()) == ""
