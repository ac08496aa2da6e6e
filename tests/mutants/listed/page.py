"""Mutants of `ultraif_ray/serve/page/`: what a browser does with it."""

from tests.mutants.mutant import Mutant

PAGE, TESTS = "ultraif_ray/serve/page", "tests/serve/test_page.py"

MUTANTS = (
    Mutant(
        "a text of a model is read as markup",
        "docs/serve.md: what models write is shown as text and never read as markup",
        f"{PAGE}/parts.js",
        "  made.append(...children);\n",
        '  made.innerHTML = children.map((one) => one.outerHTML ?? one).join("");\n',
        (f"{TESTS}::test_what_a_model_writes_is_shown_and_never_run",),
    ),
    Mutant(
        "an edited question keeps its verdict",
        "docs/serve.md: what is out of date says so",
        f"{PAGE}/parts.js",
        "isMine: true });\n      this.show(null);",
        "isMine: true });",
        (f"{TESTS}::test_an_edited_question_is_judged_again_and_a_verdict_that_is_out_of_date_says_so",),
    ),
    Mutant(
        "a changed answer leaves its verdicts as they are",
        "docs/serve.md: what is out of date says so",
        f"{PAGE}/page.js",
        'document.addEventListener("input", changed);',
        "",
        (f"{TESTS}::test_an_edited_question_is_judged_again_and_a_verdict_that_is_out_of_date_says_so",),
    ),
    Mutant(
        "composing again takes away what was typed",
        "docs/serve.md: questions of yours stay when you compose again",
        f"{PAGE}/page.js",
        "questions.push(newQuestion(text, null, true));",
        "questions.push(newQuestion(text, null));",
        (f"{TESTS}::test_an_edited_question_is_judged_again_and_a_verdict_that_is_out_of_date_says_so",),
    ),
    Mutant(
        "code answers a question that was edited",
        "docs/serve.md: a checker answers its own question",
        f"{PAGE}/parts.js",
        "{ checker: null, isMine: true }",
        "{ isMine: true }",
        (f"{TESTS}::test_history_and_checkers_go_with_what_is_asked",),
    ),
    Mutant(
        "a step that fails has emptied the answer",
        "docs/serve.md: what you typed is never replaced by a fault",
        f"{PAGE}/page.js",
        '  say("answer", "Waiting for the first word");\n',
        '  at("answer").value = "";\n',
        (f"{TESTS}::test_a_fault_is_one_sentence_in_its_place_and_takes_nothing_away",),
    ),
    Mutant(
        "the answer comes in one piece",
        "docs/serve.md: the answer streams in",
        f"{PAGE}/page.js",
        "    showAtEnd(",
        "    if (finish) showAtEnd(",
        (f"{TESTS}::test_each_round_shows_before_the_next_is_there_and_the_answer_before_its_end",),
    ),
    Mutant(
        "Esc stops nothing",
        "docs/serve.md: Esc stops what runs",
        f"{PAGE}/page.js",
        'event.key === "Escape"',
        'event.key === "Esc"',
        (f"{TESTS}::test_each_round_shows_before_the_next_is_there_and_the_answer_before_its_end",),
    ),
    Mutant(
        "the token is in the command",
        "docs/serve.md: the page leaves the token out of the command",
        f"{PAGE}/curl.js",
        "Bearer \\${ULTRAIF_SERVE_TOKEN:?is the token of the service}",
        'Bearer ${sessionStorage.getItem("ultraif-token")}',
        (f"{TESTS}::test_a_token_is_asked_for_and_stays_in_the_tab",),
    ),
    Mutant(
        "an apostrophe ends a word of bash",
        "docs/serve.md: a command for bash",
        f"{PAGE}/curl.js",
        """.replaceAll("'", "'\\\\''")""",
        "",
        (f"{TESTS}::test_a_quoted_text_is_one_word_of_bash",),
    ),
    Mutant(
        "an event ends between two pieces",
        "events.js: the events of a stream of bytes",
        f"{PAGE}/events.js",
        "      rest += read.value",
        "      rest = read.value",
        (f"{TESTS}::test_events_are_read_however_they_are_cut",),
    ),
    Mutant(
        "every word after the first new one is new",
        "words.js: those that are not new stand in `before`",
        f"{PAGE}/words.js",
        "&& at < words.length - end && !kept.has(at - start)",
        "",
        (f"{TESTS}::test_new_words_are_found",),
    ),
)
