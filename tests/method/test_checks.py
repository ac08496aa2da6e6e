"""The checks on probes of our own: what plausible replies of large models get right and wrong."""

import pytest

from tests.scripted import client_of, composed, labels, recipe, saying
from ultraif_ray.method.checks import (
    composition_holds,
    decomposition_holds,
    fault_of_composition,
    fault_of_decomposition,
    is_question,
)
from ultraif_ray.method.prompts import check_composition
from ultraif_ray.records import Constraint

POEM = "Write a poem about the rain in French, of at most 8 lines."
POST = (
    "Please answer in German. Read the posting and say what to send.\n\nWe answer mail in German and in English. "
    "Please read our values first. You will answer in German every day, read what customers send, and say what you see."
)
NOTES = "会议记录：今天讨论了用户反馈。文档需要用中文更新，邮件一天之内回答。"


@pytest.mark.parametrize(
    ("query", "constraint", "simplified", "question"),
    [
        (POEM, "in French", "Write a poem about the rain, of at most 8 lines.", "Is the poem in French?"),
        # The question need not repeat a word of the constraint, in whatever language this is.
        ("explain DNS like im five", "like im five", "explain DNS", "Would a young child follow the explanation?"),
        (
            "Hvorfor er himmelen blå? Svar i én setning.",
            "Svar i én setning",
            "Hvorfor er himmelen blå?",
            "Is it short?",
        ),
        (
            "Schreib auf Deutsch ein Gedicht über Regen",
            "auf Deutsch",
            "Schreib ein Gedicht über Regen",
            "Is it in German?",
        ),
        # Its words may stand elsewhere too.
        (POST, "answer in German", POST.removeprefix("Please answer in German. "), "Is the response in German?"),
        (f"请写一份总结，用中文回答。{NOTES}", "用中文回答", f"请写一份总结。{NOTES}", "Is the summary in Chinese?"),
        ("ช่วยแนะนำหนังสือหน่อย ตอบสั้นๆ", "ตอบสั้นๆ", "ช่วยแนะนำหนังสือหน่อย", "Is the answer short?"),
        # It may be longer than its task, leave a connective behind, or be more than a quote.
        (
            "Suggest a novel. Your reply must be a JSON object with the keys title, author and year and nothing else",
            "must be a JSON object with the keys title, author and year and nothing else",
            "Suggest a novel.",
            "Is the reply a JSON object with exactly these keys?",
        ),
        (
            "Fix my sentence and give back only the fixed one: She go home.",
            "give back only the fixed one",
            "Fix my sentence: She go home.",
            "Does the reply hold nothing but the sentence?",
        ),
        ("Name ten rivers in Asia", "ten rivers", "Name rivers in Asia", "Are there exactly ten rivers?"),
        # A piece may move, and a sentence may be mended.
        (
            "In the voice of a pirate, tell me how to make tea",
            "In the voice of a pirate",
            "Tell me how to make tea",
            "Does a pirate speak?",
        ),
        ("Give me a list of 5 films", "a list of 5", "Give me some films", "Are there 5 films?"),
    ],
)
def test_good_decompositions_stand(query: str, constraint: str, simplified: str, question: str) -> None:
    assert fault_of_decomposition(query, constraint, simplified, question) == ""


@pytest.mark.parametrize(
    ("constraint", "simplified", "question", "fault"),
    [
        ("in French", POEM, "Is it in French?", "nothing was taken away"),
        ("in French", "", "Is it in French?", "nothing was taken away"),
        (
            "be funny",
            "Write a poem about the rain, of at most 8 lines.",
            "Is it funny?",
            "the constraint was not taken away",
        ),
        ("in French", "Write a poem about the rain.", "Is it in French?", "more than the constraint was taken away"),
        (
            "in French",
            "Write a poem, of at most 8 lines.",
            "Is it in French?",
            "more than the constraint was taken away",
        ),
        ("in French", "Write a poem about the", "Is it in French?", "more than the constraint was taken away"),
        (
            "in French",
            "Write a poem about the rain, of at most 8 lines, and please make it rhyme",
            "Is it in French?",
            "words were added",
        ),
        (
            "in French",
            "lines most Write rain the of poem at about 8 a",
            "Is it in French?",
            "the words were scrambled",
        ),
        ("in French", "Write a poem about the rain, of at most 8 lines.", "Write it in French.", "not a question"),
        (
            "in French",
            "Write a poem about the rain, of at most 8 lines.",
            "Is it " + "very " * 80 + "French?",
            "not a question",
        ),
    ],
)
def test_bad_decompositions_are_named(constraint: str, simplified: str, question: str, fault: str) -> None:
    assert fault_of_decomposition(POEM, constraint, simplified, question) == fault


def some(kind: str, count: int) -> list[str]:
    """So many words, all different, and none with a number."""
    return [f"{kind}{'x' * number}" for number in range(count)]


@pytest.mark.parametrize(
    ("task", "demand", "most"), [(5, 1, 2), (5, 12, 3), (5, 16, 4), (298, 1, 3), (295, 1, 2), (5, 11, 2)]
)
def test_what_may_leave_beside_the_constraint(task: int, demand: int, most: int) -> None:
    kept, taken = some("task", task), some("demand", demand)
    for beside, fault in ((most, ""), (most + 1, "more than the constraint was taken away")):
        query = " ".join([*kept, *taken, *some("beside", beside)])
        assert fault_of_decomposition(query, " ".join(taken), " ".join(kept), "Is it?") == fault


@pytest.mark.parametrize(("kept", "most"), [(3, 2), (12, 3), (11, 2)])
def test_how_many_words_may_come(kept: int, most: int) -> None:
    for came, fault in ((most, ""), (most + 1, "words were added")):
        simplified = " ".join([*some("task", kept), *some("new", came)])
        assert fault_of_decomposition(" ".join([*some("task", kept), "end"]), "end", simplified, "Is it?") == fault


@pytest.mark.parametrize(("words", "most"), [(7, 3), (9, 4), (10, 5)])
def test_how_far_words_may_move(words: int, most: int) -> None:
    """The last words backwards: each stands behind another one than before."""
    order = some("word", words)
    for turned, fault in ((most, ""), (most + 1, "the words were scrambled")):
        simplified = " ".join([*order[:-turned], *reversed(order[-turned:])])
        assert fault_of_decomposition(" ".join([*order, "end"]), "end", simplified, "Is it?") == fault


@pytest.mark.parametrize(("words", "most"), [(8, 3), (31, 3), (32, 4), (40, 5)])
def test_how_many_words_of_a_query_a_composition_may_lose(words: int, most: int) -> None:
    query = some("word", words)
    for lost, fault in ((most, ""), (most + 1, "loses the subject of the query")):
        assert fault_of_composition(" ".join(query), " ".join([*query[lost:], "and", "more"]), []) == fault


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("Explain tides.", "Explain tides to a sailor."),
        ("Tell me about otters", "Describe the life of otters to me, as a bedtime story"),
        ("what's up w/ rents", "What is going on with rents, explained in one tweet?"),
        ("soups with lentils?", "Suggest three soups that use lentils and take under 30 minutes"),
        ("写一首关于雨的诗", "写一首关于雨的诗，最多八行"),
        (POST, POST.replace("Read the posting", "Answer in one short sentence. Read the posting")),
        ("Compare two stoves", "Compare two stoves in this form:\n| a | b |\n|----------------|----------------|"),
    ],
)
def test_good_compositions_stand(before: str, after: str) -> None:
    assert fault_of_composition(before, after, []) == ""


@pytest.mark.parametrize(
    ("before", "after", "questions", "fault"),
    [
        ("Write about rain.", "write about RAIN", [], "query left as it was"),
        ("Write about rain.", "about rain: write", [], "query left as it was"),
        ("Say hi to me, please", "Say hi to me, please. Say hi, please, to me", [], "the query stands there twice"),
        ("Say hi now", "Say hi now, and say hi to Ann now", [], ""),
        ("Write about rain.", "Sing a song of snow and ice", [], "loses the subject of the query"),
        ("Name moons in 3 sentences", "Name moons in 5 sentences that rhyme", [], "a number of the query was changed"),
        (
            "Name moons in French",
            "Name moons in Spanish, with their size",
            ["Is the answer in French?"],
            "an earlier demand was changed",
        ),
    ],
)
def test_bad_compositions_are_named(before: str, after: str, questions: list[str], fault: str) -> None:
    assert fault_of_composition(before, after, questions) == fault


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Does the answer have 3 lines?", True),
        ('Does it include the word "anchor"?', True),
        ('Does it end on the words "why not?"', True),
        ("If there is a joke, does it come last?", True),
        ("Ought it to be short? Is it?", True),
        ("有没有三行？", True),
        ("Write a poem.", False),
        ("?", False),
        ("", False),
        ("A?", True),
        ("so " * 99 + "so?", True),
        ("so " * 99 + "so ?", False),
        ("Is it" + " so" * 200 + "?", False),
    ],
)
def test_what_counts_as_a_question(text: str, right: bool) -> None:
    assert is_question(text) is right


FRENCH = Constraint(
    category="linguistic",
    text="in French",
    simplified_query="Write a poem about the rain, of at most 8 lines.",
    question="Is the poem in French?",
)


async def test_a_decomposition_is_shown_to_the_decomposers_own_model_after_examples_that_are_always_the_same() -> None:
    engine = saying(labels(0.9), labels(0.2))
    client = client_of(recipe(roles={"decomposer": {"pool": "decomposers", "adapter": "/adapter"}}), decomposer=engine)
    other = FRENCH.model_copy(update={"text": "of at most 8 lines", "question": "Are there at most 8 lines?"})
    assert await decomposition_holds(POEM, FRENCH, client)
    assert not await decomposition_holds("Write, in French", other, client)
    first, second = engine.asked
    assert first.messages[:-1] == second.messages[:-1]
    assert {message["content"] for message in first.messages if message["role"] == "assistant"} == {"Yes", "No"}
    assert first.messages[0]["role"] == "system"
    assert "Say Yes only if all of this is true" in first.messages[0]["content"]
    assert first.messages[-1]["content"] == (
        f"Request:\n{POEM}\n\nDemand: {FRENCH.text}\n\nShorter request:\n{FRENCH.simplified_query}\n\n"
        f"Question: {FRENCH.question}"
    )
    assert (first.labels, first.adapter, first.query) == (("Yes", "No"), "", POEM)  # the model, whatever its adapter


async def test_a_composition_is_shown_with_what_stood_before_and_its_own_question_alone() -> None:
    engine = saying(labels(0.5), labels(0.49))
    client = client_of(recipe(), composer=engine)
    made = composed("Write.", ("Write in verse.", "Is it verse?"), ("Write in verse, in French.", "Is it French?"))
    assert await composition_holds(made, client, "composer")
    assert not await composition_holds(made, client, "composer")
    assert "Say Yes only if all of this is true" in engine.asked[0].messages[0]["content"]
    assert engine.asked[0].messages[-1]["content"] == (
        "Request:\nWrite in verse.\n\nLonger request:\nWrite in verse, in French.\n\nQuestions: Is it French?"
    )
    assert engine.asked[0].query == made.query
    made.added[-1].questions.append("Is it whole?")
    assert check_composition(made)[-1]["content"].endswith("\n\nQuestions: Is it French? Is it whole?")
