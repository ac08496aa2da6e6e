"""The page in headless Chromium, before a service whose engines are simulated or scripted."""

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import BrowserContext, Locator, Page, Route, expect

from tests.scripted import Answer, ScriptedEngine, as_json, recipe
from tests.serve.browser import listening, page_at, page_of, started
from tests.serve.service import one_pool, scripted, simulated
from ultraif_ray.engine.protocol import Completion, Request
from ultraif_ray.errors import EngineDead
from ultraif_ray.serve.app import Service
from ultraif_ray.serve.command import TOKEN
from ultraif_ray.serve.guard import Door, hashed

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]

HOSTILE = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> [go](javascript:alert(3)) <b>&amp;"


@pytest.fixture(scope="module")
def window() -> Iterator[BrowserContext]:
    with started() as window:
        yield window


@pytest.fixture(scope="module")
def blank(window: BrowserContext) -> Iterator[Page]:
    """The page for what asks nothing of its service."""
    with page_of(simulated(), window) as page:
        yield page


def quick(**pool: Any) -> Service:
    """A service that judges by one word, over a simulated pool."""
    return simulated(one_pool(synthesize={"judge": "logprob"}, pools={"m": {"engine": "simulated", **pool}}))


def by_script(add: str = "in two lines", judge: str = "each", faults: dict[str, Exception] | None = None) -> Service:
    """A service whose composer adds `add`, whose judge says no where a question has `not`, and which answers `Rain.`"""

    def say(request: Request, number: int) -> Answer:
        if fault := (faults or {}).get(request.role):
            return fault
        if request.role == "composer":
            return as_json({"augmented query": f"{request.query} {add}", "question": [f"Is it {add[:150]}, {number}?"]})
        if request.role == "judge":
            asked = request.messages[-1]["content"].rpartition("[Question")[2]
            return as_json({"explanation": f"So it is. {add}", "answer": "NO" if " not " in asked else "YES"})
        if request.role == "decomposer":
            found = {"category": "format", "constraint": "short", "simplified_query": "Write a poem about rain"}
            return as_json({"constraints": [{**found, "question": "Is it short?"}]})
        return f"Rain. {add}"

    engine = ScriptedEngine(say)
    return scripted(recipe(synthesize={"judge": judge}), decomposer=engine, composer=engine, responder=engine)


def field(page: Page | Locator, name: str) -> Locator:
    return page.get_by_role("spinbutton" if name == "Rounds" else "textbox", name=name, exact=True)


def result(page: Page) -> Locator:
    return page.locator("#judge-status")


def rounds(page: Page) -> Locator:
    return page.locator("#rounds-made > li")


def sent(page: Page, path: str) -> list[Any]:
    """The bodies that go to a path from now on."""
    bodies: list[Any] = []
    page.on("request", lambda one: bodies.append(one.post_data_json) if one.url.endswith(path) else None)
    return bodies


# ---- from a prompt to verdicts ---------------------------------------------------------------------------------------


def test_a_prompt_is_composed_answered_and_judged(window: BrowserContext) -> None:
    with page_of(quick(), window) as page:
        expect(page.locator("#facts")).to_contain_text("simulated, one word a question")
        field(page, "Prompt").fill("Write a poem about rain.")
        page.get_by_role("button", name="Compose, answer, judge").click()
        expect(result(page)).to_have_text(re.compile(r"^(Passed: 3|Not passed: [012]) of 3 answered yes$"))

        texts = ["Write a poem about rain.", *(one.locator(".text").inner_text() for one in rounds(page).all())]
        marks = [one.locator("ins").all_inner_texts() for one in rounds(page).all()]
        assert len(texts) == 4
        for (before, after), (new,) in zip(pairwise(texts), marks, strict=True):
            assert after == f"{before} {new}"
        assert field(page, "Composed query").input_value() == texts[-1]
        assert field(page, "Answer").input_value()

        verdicts = page.locator(".question").all()
        for one, made in zip(verdicts, rounds(page).all(), strict=True):
            assert field(one, "Question").input_value() == made.locator(".quiet").inner_text()
            p = float(re.fullmatch(r"p\(yes\) (\d\.\d\d), by the judge", one.locator(".details").inner_text())[1])  # type: ignore[index]
            assert one.locator(".verdict").inner_text() == ("Yes" if p >= 0.5 else "No")


def test_each_round_shows_before_the_next_is_there_and_the_answer_before_its_end(window: BrowserContext) -> None:
    with page_of(quick(tokens_per_s=8, latency_s=0.3), window) as page:
        field(page, "Prompt").fill("Write a poem.")
        page.keyboard.press("Control+Enter")
        expect(rounds(page)).to_have_count(1)
        expect(page.locator("#compose-status")).to_contain_text("Composing round 2 of 3")
        page.keyboard.press("Escape")
        expect(page.locator("#compose-status")).to_have_text("Stopped")
        assert field(page, "Composed query").input_value()

        page.get_by_role("button", name="Answer only").click()
        answer = field(page, "Answer")
        expect(answer).to_have_value(re.compile(r"\w+ \w+"))
        expect(answer).not_to_be_editable()
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#answer-status")).to_have_text("Stopped")
        expect(answer).to_be_editable()
        assert "About:" not in answer.input_value()  # the end of it, which had not come
        assert answer.input_value()


def test_who_is_quicker_than_the_names_of_the_models_waits_for_them(window: BrowserContext) -> None:
    held: list[Route] = []
    window.route("**/v1/service", lambda route: held.append(route), times=1)
    with page_of(by_script(), window) as page:
        field(page, "Prompt").fill("Write a poem about rain")
        page.keyboard.press("Control+Enter")
        expect(result(page)).to_have_text("Passed: 3 of 3 answered yes")
        (late,) = held
        late.continue_()


def test_an_edited_question_is_judged_again_and_a_verdict_that_is_out_of_date_says_so(window: BrowserContext) -> None:
    with page_of(by_script(), window) as page:
        field(page, "Prompt").fill("Write a poem about rain")
        field(page, "Rounds").fill("1")
        page.keyboard.press("Control+Enter")
        expect(result(page)).to_have_text("Passed: 1 of 1 answered yes")
        expect(page.locator(".details")).to_have_text("by the judgeSo it is. in two lines")
        stale = page.locator("#judge-note")
        expect(stale).to_be_hidden()

        field(page, "Question").fill("Is it not in prose?")
        expect(page.locator(".verdict")).to_have_text("Not judged")
        expect(stale).to_be_visible()
        page.keyboard.press("Control+Enter")
        expect(result(page)).to_have_text("Not passed: 0 of 1 answered yes")
        expect(page.locator(".verdict")).to_have_text("No")
        expect(stale).to_be_hidden()

        field(page, "Answer").fill("Snow.")
        expect(stale).to_be_visible()
        field(page, "Another question").fill("Is it cold?")
        page.keyboard.press("Control+Enter")  # asks what is typed, also where it was not added
        expect(result(page)).to_have_text("Not passed: 1 of 2 answered yes")
        page.get_by_role("button", name="Remove this question").first.click()
        page.get_by_role("button", name="Judge", exact=True).click()
        expect(result(page)).to_have_text("Passed: 1 of 1 answered yes")

        field(page, "Composed query").fill("Write a poem about snow")
        expect(page.locator("#answer-note")).to_be_visible()
        page.get_by_role("button", name="Compose only").click()  # what was typed is not taken away
        expect(page.locator("#compose-status")).to_have_text("1 constraint added")
        expect(field(page, "Question")).to_have_count(2)
        assert field(page, "Question").last.input_value() == "Is it cold?"


def test_what_the_prompt_has_already_is_found(window: BrowserContext) -> None:
    with page_of(by_script(), window) as page:
        field(page, "Prompt").fill("Write a short poem about rain")
        page.get_by_text("Constraints that the prompt has already").click()
        page.get_by_role("button", name="Find them").click()
        expect(page.locator("#decompose-status")).to_have_text("1 constraint found")
        expect(page.locator("#found")).to_contain_text("short")


def test_an_answer_that_was_cut_off_says_so(window: BrowserContext) -> None:
    engine = ScriptedEngine(lambda request, number: Completion("Rain falls and", finish="length"))
    with page_of(scripted(composer=engine, responder=engine), window) as page:
        field(page, "Prompt").fill("Write a poem about rain")
        page.get_by_role("button", name="Answer only").click()
        expect(page.locator("#answer-status")).to_have_text(
            "3 tokens, cut off at the limit: in a run it would not pass"
        )
        assert field(page, "Composed query").input_value() == "Write a poem about rain"  # asked as it is


def test_history_and_checkers_go_with_what_is_asked(window: BrowserContext) -> None:
    check = {"name": "avoids", "relation": "exactly", "texts": ["rain"]}

    def say(request: Request, number: int) -> Answer:
        if request.role != "composer":
            return "Water falls."
        question = "Does it avoid the word rain?"
        return as_json(
            {
                "augmented query": f"{request.query} without the word rain",
                "question": [question],
                "check": {**check, "number": None},
            }
        )

    engine = ScriptedEngine(say)
    made = recipe(synthesize={"checkers": "all"})
    with page_of(scripted(made, composer=engine, responder=engine), window) as page:
        composed, chats, judged = sent(page, "/compose"), sent(page, "/completions"), sent(page, "/judge")
        page.get_by_text("Earlier conversation").click()
        page.get_by_role("button", name="Add a turn").click()
        page.keyboard.type("Hello")
        page.get_by_role("button", name="Add a turn").click()
        page.keyboard.type("Good day")
        field(page, "Prompt").fill("Describe the weather")
        field(page, "Rounds").fill("1")
        page.get_by_role("combobox", name="Model").select_option("responder")
        page.get_by_role("button", name="Compose, answer, judge").click()
        expect(result(page)).to_have_text("Passed: 1 of 1 answered yes")
        expect(page.locator(".details")).to_have_text("by code")
        expect(rounds(page)).to_contain_text("Checked by code: avoids rain")

        history = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day"}]
        query = "Describe the weather without the word rain"
        assert composed[0]["history"] == judged[0]["history"] == history
        assert chats[0]["messages"] == [*history, {"role": "user", "content": query}]
        assert chats[0]["model"] == "responder"
        assert judged[0]["checkers"] == {"Does it avoid the word rain?": check}

        field(page, "Question").fill("Does it avoid rain?")  # which is another question than the checker's
        page.get_by_role("button", name="Judge", exact=True).click()
        expect(page.locator(".verdict")).to_have_text("Missing")
        assert "checkers" not in judged[1]


# ---- no text of a model is markup ------------------------------------------------------------------------------------


def test_what_a_model_writes_is_shown_and_never_run(window: BrowserContext) -> None:
    with page_of(by_script(add=HOSTILE), window) as page:
        field(page, "Prompt").fill(f"Write a poem {HOSTILE}")
        page.keyboard.press("Control+Enter")
        expect(result(page)).to_contain_text("of 3 answered yes")
        assert HOSTILE in page.locator("#rounds-made").inner_text()
        assert HOSTILE in page.locator(".reason").first.inner_text()
        assert HOSTILE in field(page, "Question").first.input_value()
        assert field(page, "Answer").input_value() == f"Rain. {HOSTILE}"
        for tag in ("img", "b", "a", "script:not([src])", "[onerror]", "[style]:not(.bar)"):
            expect(page.locator(tag)).to_have_count(0)


def test_the_browser_runs_no_script_that_got_in_all_the_same(window: BrowserContext) -> None:
    with listening(quick()) as url, window.new_page() as page:
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(url)
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran = 1\">')")
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 1'}))")
        expect(page.locator("img")).to_have_count(1)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.ran") is None
        assert sum("Content Security Policy" in one for one in said) >= 2


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_a_fault_is_one_sentence_in_its_place_and_takes_nothing_away(window: BrowserContext) -> None:
    with page_of(by_script(faults={"judge": EngineDead("gone")}), window) as page:
        field(page, "Prompt").press("Control+Enter")
        expect(page.locator("#compose-fault")).to_have_text("Write a prompt first.")
        field(page, "Prompt").fill("Write a poem about rain")
        field(page, "Rounds").fill("99")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#compose-fault")).to_have_text("Rounds: 99 are too many; at most 6.")
        field(page, "Rounds").fill("1")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#judge-fault")).to_have_text("An engine was lost, or does not answer: ask again later.")
        expect(page.locator("#compose-fault")).to_have_text("")
        assert field(page, "Prompt").input_value() == "Write a poem about rain"
        assert field(page, "Answer").input_value() == "Rain. in two lines"
        assert field(page, "Question").input_value() == "Is it in two lines, 0?"

        page.route("**/v1/*/*", lambda route: route.abort())
        page.get_by_role("button", name="Answer only").click()
        expect(page.locator("#answer-fault")).to_have_text("The service cannot be reached.")
        assert field(page, "Answer").input_value() == "Rain. in two lines"


def test_a_busy_service_says_when_to_come_again(window: BrowserContext) -> None:
    slow = {"m": {"engine": "simulated", "tokens_per_s": 2}}
    with (
        listening(simulated(one_pool(serve={"max_open": 1}, pools=slow))) as url,
        page_at(url, window) as one,
        page_at(url, window) as other,
    ):
        for page in (one, other):
            field(page, "Prompt").fill("Write a poem")
        one.get_by_role("button", name="Answer only").click()
        expect(field(one, "Answer")).not_to_have_value("")
        other.get_by_role("button", name="Answer only").click()
        expect(other.locator("#answer-fault")).to_have_text("The service is busy: try again in 2 s.")


def test_a_composer_that_gives_up_keeps_what_it_made(window: BrowserContext) -> None:
    def say(request: Request, number: int) -> Answer:
        return as_json({"augmented query": f"{request.query} in two lines", "question": ["Is it in two lines?"]})

    engine = ScriptedEngine(say)  # a question that was asked before is no new one
    with page_of(scripted(composer=engine, responder=engine), window) as page:
        field(page, "Prompt").fill("Write a poem about rain")
        page.get_by_role("button", name="Compose only").click()
        expect(page.locator("#compose-status")).to_have_text("1 constraint added; round 2: no new question")
        assert field(page, "Composed query").input_value() == "Write a poem about rain in two lines"


def test_a_token_is_asked_for_and_stays_in_the_tab(window: BrowserContext) -> None:
    service = simulated(one_pool(), door=Door(hashed(b"s3cret")))
    with page_of(service, window) as page:
        page.evaluate("delete Navigator.prototype.clipboard")
        expect(page.locator("#service-fault")).to_have_text("The service wants a token.")
        expect(page.get_by_label("Token of the service")).to_be_focused()
        page.keyboard.type("guess")
        page.keyboard.press("Enter")
        expect(page.locator("#service-fault")).to_have_text("The service knows no such token.")
        page.get_by_label("Token of the service").fill("s3cret")
        page.keyboard.press("Enter")
        expect(page.locator("#facts")).to_contain_text("simulated")
        expect(page.locator("#token")).to_be_hidden()
        field(page, "Prompt").fill("Write a poem")
        page.get_by_role("button", name="Compose only").click()
        expect(page.locator("#compose-status")).to_have_text("3 constraints added")

        page.get_by_role("button", name="Copy as curl").first.click()
        command = page.locator("#curl-text")
        expect(command).to_be_focused()  # where the browser has no clipboard, the command is shown
        assert f"Bearer ${{{TOKEN}:?" in command.input_value()
        assert "s3cret" not in command.input_value()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


def test_a_token_that_is_missing_later_is_asked_for_and_the_step_goes_on(window: BrowserContext) -> None:
    service = simulated(one_pool(), door=Door(hashed(b"s3cret")))
    with page_of(service, window) as page:
        page.get_by_label("Token of the service").fill("s3cret")
        page.keyboard.press("Enter")
        expect(page.locator("#facts")).to_contain_text("simulated")
        page.evaluate("sessionStorage.clear()")
        field(page, "Prompt").fill("Write a poem")
        page.keyboard.press("Control+Enter")
        expect(page.locator("#compose-fault")).to_have_text("The service wants a token.")
        page.get_by_label("Token of the service").fill("guess")
        page.keyboard.press("Enter")
        expect(page.locator("#service-fault")).to_have_text("The service knows no such token.")
        page.get_by_label("Token of the service").fill("s3cret")
        page.keyboard.press("Enter")
        expect(result(page)).to_contain_text("of 3 answered yes")


# ---- keyboard, sizes, colours ----------------------------------------------------------------------------------------


def test_all_of_it_can_be_done_from_the_keyboard(window: BrowserContext) -> None:
    with page_of(by_script(), window) as page:
        expect(page.locator("#facts dt")).to_have_count(3)
        page.keyboard.press("Tab")
        page.keyboard.type("Write a poem about rain")
        page.keyboard.press("Control+Enter")
        expect(result(page)).to_have_text("Passed: 3 of 3 answered yes")
        expect(field(page, "Prompt")).to_be_focused()
        order = []
        for _ in range(40):
            page.keyboard.press("Tab")
            order.append(
                page.evaluate(
                    "[document.activeElement.innerText || document.activeElement.id, \
                getComputedStyle(document.activeElement).outlineStyle, document.activeElement === document.body]"
                )
            )
            if order[-1][2]:
                break
        reached = [name for name, _, nowhere in order if not nowhere]
        assert [style for _, style, nowhere in order if not nowhere] == ["solid"] * len(reached)
        wanted = [
            "Compose, answer, judge",
            "Compose only",
            "rounds",
            "query",
            "Answer, judge",
            "answer",
            "new-question",
            "Judge",
        ]
        assert [name for name in reached if name in wanted] == wanted
        assert reached.count("×") == 3

        field(page, "Another question").focus()
        page.keyboard.type("Is it not long?")
        page.keyboard.press("Enter")
        expect(field(page, "Question")).to_have_count(4)
        page.keyboard.press("Control+Enter")
        expect(result(page)).to_have_text("Not passed: 3 of 4 answered yes")
        page.get_by_role("button", name="Remove this question").last.press("Enter")
        expect(field(page, "Question")).to_have_count(3)
        expect(field(page, "Question").last).to_be_focused()


def test_what_changes_is_announced(blank: Page) -> None:
    for step in ("compose", "decompose", "answer", "judge"):
        assert blank.locator(f"#{step}-status").get_attribute("role") == "status"
        assert blank.locator(f"#{step}-fault").get_attribute("role") == "alert"
    assert blank.locator("#rounds-made").get_attribute("aria-live") == "polite"
    named = "[...document.querySelectorAll('input, textarea, select')].filter(one => !one.labels.length && \
        !one.ariaLabel && !one.getAttribute('aria-labelledby')).map(one => one.id)"
    assert blank.evaluate(named) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(window: BrowserContext, scheme: Any) -> None:
    with page_of(by_script(add="x" * 300 + HOSTILE), window) as page:
        page.emulate_media(color_scheme=scheme)
        widths = "[document.documentElement.scrollWidth, innerWidth]"
        for filled in (False, True):
            if filled:
                field(page, "Prompt").fill("y" * 300)
                page.keyboard.press("Control+Enter")
                expect(result(page)).to_contain_text("of 3 answered yes")
            for width in (320, 400, 768, 1280):
                page.set_viewport_size({"width": width, "height": 800})
                assert page.evaluate(widths) == [width, width]
        paper, ink = (
            sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle(document.body).{name}"))[:3]))
            for name in ("backgroundColor", "color")
        )
        assert (paper > 700 and ink < 150) if scheme == "light" else (paper < 100 and ink > 600)


# ---- curl ------------------------------------------------------------------------------------------------------------

STUB = """#!/bin/sh
printf '%s\\0' "$@" > "$WROTE"
"""


@pytest.mark.parametrize("step", ["compose", "decompose", "answer", "judge"])
def test_a_command_that_was_copied_runs_in_bash_as_it_stands(window: BrowserContext, tmp_path: Path, step: str) -> None:
    text = "It's \"quoted\" $HOME `id` \\n \\ !! $(id) 雨\u202eabc 🌧️\n\tsecond line\n'"
    (tmp_path / "curl").write_text(STUB)
    (tmp_path / "curl").chmod(0o755)
    window.grant_permissions(["clipboard-read", "clipboard-write"])
    with listening(quick()) as url, page_at(url, window) as page:
        paths = {"compose": "compose", "decompose": "decompose", "answer": "chat/completions", "judge": "judge"}
        for label in ("Prompt", "Composed query", "Answer"):
            field(page, label).fill(text)
        field(page, "Another question").fill('Isn\'t it "$HOME"?')
        page.keyboard.press("Enter")
        page.evaluate("document.querySelector('details:has(#decompose-status)').open = true")
        page.locator(f"[data-curl={step}]").click()
        expect(page.locator(f"[data-curl={step}]")).to_have_text("Copied")
        command = page.evaluate("navigator.clipboard.readText()")

        wrote = tmp_path / "wrote"
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "WROTE": str(wrote)}
        subprocess.run(["bash", "-c", command], check=True, env=environment)
        *_, body = arguments = wrote.read_text().removesuffix("\0").split("\0")
        assert arguments == ["-sS", f"{url}v1/{paths[step]}", "-H", "Content-Type: application/json", "-d", body]
        bodies = sent(page, paths[step])
        page.locator(f"button[data-run={step}]").click()
        expect(page.locator(f"#{step}-status")).not_to_be_empty()
        sent_by_page = {key: value for key, value in bodies[0].items() if not key.startswith("stream")}
        assert json.loads(body) == sent_by_page
        assert text in json.loads(body).values() or step == "answer"


# ---- the functions of the script -------------------------------------------------------------------------------------


def call(page: Page, module: str, body: str, argument: Any) -> Any:
    return page.evaluate(f"(given) => import('/page/{module}.js').then((it) => {{ {body} }})", argument)


TEXTS = st.lists(st.sampled_from(["a", "b", "c", " ", ", ", "雨", "don't", "\n", "🌧️"]), max_size=12).map("".join)


@settings(max_examples=4)
@given(pairs=st.lists(st.tuples(TEXTS | st.text(max_size=6), TEXTS), min_size=20, max_size=40))
def test_pieces_join_to_the_text_and_what_is_not_new_was_there(blank: Page, pairs: list[tuple[str, str]]) -> None:
    found = call(blank, "words", "return given.map((pair) => it.newWords(...pair))", pairs)
    for (before, after), pieces in zip(pairs, found, strict=True):
        assert "".join(one["text"] for one in pieces) == after
        rest = iter(before)
        assert all(letter in rest for one in pieces if not one["isNew"] for letter in one["text"])
        assert all(one["isNew"] != other["isNew"] for one, other in pairwise(pieces))


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ("Write a poem.", "Write a poem. Use two lines.", [" Use two lines."]),
        ("Write a poem.", "Write a short poem.", ["short "]),
        (
            "Write a poem about rain",
            "In two lines, write a poem about rain at sea",
            ["In two lines, write ", " at sea"],
        ),
        ("写一首诗", "写一首关于雨的诗", ["关于雨的"]),
        ("same", "same", []),
        ("", "all of it", ["all of it"]),
    ],
)
def test_new_words_are_found(blank: Page, before: str, after: str, new: list[str]) -> None:
    pieces = call(blank, "words", "return it.newWords(...given)", [before, after])
    assert [one["text"] for one in pieces if one["isNew"]] == new


def test_long_texts_that_differ_everywhere_are_new_at_once(blank: Page) -> None:
    before, after = ("".join(f"{letter}{number} " for number in range(3000)) for letter in "ab")
    pieces = call(blank, "words", "return it.newWords(...given)", [f"start {before}end", f"start {after}end"])
    assert [(one["text"].strip(), one["isNew"]) for one in pieces] == [
        ("start", False), (after.strip(), True), ("end", False)
    ]  # fmt: skip


STREAM = st.fixed_dictionaries(
    {
        "events": st.lists(st.tuples(st.sampled_from(["", "round", "error"]), st.text(max_size=8)), max_size=4),
        "end": st.sampled_from(["\n", "\r\n", "\r"]),
        "cut_off": st.sampled_from(["", "data: cut off"]),
        "size": st.integers(1, 9),
    }
)


@settings(max_examples=4)
@given(streams=st.lists(STREAM, min_size=10, max_size=20))
def test_events_are_read_however_they_are_cut(blank: Page, streams: list[dict[str, Any]]) -> None:
    wanted = [[[name or "message", _lines(data)] for name, data in one["events"]] for one in streams]
    given = [{"bytes": list(_written(wanted_of, one)), **one} for wanted_of, one in zip(wanted, streams, strict=True)]
    body = """
        const inPieces = ({ bytes, size }) => new ReadableStream({ start(to) {
            for (let at = 0; at < bytes.length; at += size) to.enqueue(Uint8Array.from(bytes.slice(at, at + size)));
            to.close();
        } });
        const read = async (one) => {
            const found = [];
            for await (const { event, data } of it.events(inPieces(one))) found.push([event, data]);
            return found;
        };
        return Promise.all(given.map(read));
    """
    found = call(blank, "events", body, given)
    assert found == [[[name, "\n".join(lines)] for name, lines in one] for one in wanted]


def _lines(data: str) -> list[str]:
    return re.split(r"\r\n|\n|\r", data)


def _written(events: list[list[Any]], stream: dict[str, Any]) -> bytes:
    blocks = [
        [": comment", *([f"event: {name}"] if name != "message" else []), *(f"data: {line}" for line in lines), ""]
        for name, lines in events
    ]
    return ("".join(f"{line}{stream['end']}" for block in blocks for line in block) + stream["cut_off"]).encode()


SHELL = st.text(st.sampled_from("'\"\\$`!#&;|<>(){}*?~ \t\n雨a"), max_size=8)


@settings(max_examples=3)
@given(texts=st.lists(SHELL, min_size=20, max_size=40))
def test_a_quoted_text_is_one_word_of_bash(blank: Page, texts: list[str]) -> None:
    words = call(blank, "curl", "return given.map(it.quoted)", texts)
    shown = subprocess.run(["bash", "-c", f"printf '%s\\0' {' '.join(words)}"], capture_output=True, check=True).stdout
    assert shown.decode().split("\0")[:-1] == texts


@settings(max_examples=3)
@given(texts=st.lists(SHELL | st.text(), min_size=20, max_size=40))
def test_a_commands_body_is_the_same_json_without_what_a_terminal_acts_on(blank: Page, texts: list[str]) -> None:
    commands = call(blank, "curl", "return given.map((text) => it.command('http://x/', { text }, false))", texts)
    for text, command in zip(texts, commands, strict=True):
        body = command.partition("-d '")[2].removesuffix("'").replace("'\\''", "'")
        assert json.loads(body) == {"text": text}
        assert not re.search("[\0-\t\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", command)
