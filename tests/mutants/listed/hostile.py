"""Mutants of what keeps texts of prompts and models text: SECURITY.md."""

from tests.mutants.mutant import Mutant

CONTROL, TASKS = "tests/engine/test_control.py", "tests/train/test_tasks.py"
PROMPTS, SHOW, FILES = "tests/method/test_prompts.py", "tests/report/test_show.py", "tests/cluster/test_files.py"
REDACT, OPENAI = "tests/test_redact.py", "tests/engine/test_openai.py"
TURNS = "SECURITY.md: control tokens in a text are text, in engines and in training"

MUTANTS = (
    Mutant(
        "control tokens in a message are the template's",
        TURNS,
        "ultraif_ray/engine/chat.py",
        '[message | {"content": self.quote(message["content"])} for message in self.fit(messages)]',
        "self.fit(messages)",
        (
            f"{CONTROL}::test_a_control_token_in_a_text_is_text",
            f"{TASKS}::test_turns_that_stand_in_a_text_are_learnt_as_text",
        ),
    ),
    Mutant(
        "only special tokens are control tokens",
        TURNS,
        "ultraif_ray/engine/control.py",
        "(token.special or (_LOOKS_LIKE_ONE.fullmatch(token.content) and not _HTML.fullmatch(token.content)))",
        "token.special",
        (f"{CONTROL}::test_which_tokens_are_control_tokens",),
    ),
    Mutant(
        "HTML tags of a vocabulary are control tokens",
        "control.py: not those that are ordinary text",
        "ultraif_ray/engine/control.py",
        " and not _HTML.fullmatch(token.content)",
        "",
        (
            f"{CONTROL}::test_a_clean_text_has_the_tokens_that_the_library_gives_it",
            f"{CONTROL}::test_which_tokens_are_control_tokens",
        ),
    ),
    Mutant(
        "a text brings marks of its own",
        TURNS,
        "ultraif_ray/engine/chat.py",
        'text = text.replace(_BEGIN, "").replace(_END, "")',
        "pass",
        (f"{CONTROL}::test_whatever_a_text_holds_the_turns_stay_those_of_the_template",),
    ),
    Mutant(
        "a vocabulary that has control tokens as words stops the row",
        "chat.py: no way to write it as text",
        "ultraif_ray/engine/chat.py",
        "except ValueError:  # a vocabulary",
        "except KeyError:  # a vocabulary",
        (f"{CONTROL}::test_a_control_token_in_a_text_is_text",),
    ),
    Mutant(
        "an openai pool gets control tokens",
        "SECURITY.md: what goes to an openai pool has a space in each",
        "ultraif_ray/engine/openai.py",
        'defuse(message["content"])',
        'message["content"]',
        (f"{OPENAI}::test_a_server_gets_no_text_that_its_template_would_take_for_its_own",),
    ),
    Mutant(
        "the code of an answer may stand in it",
        "SECURITY.md: headings bear a code that stands in none of the texts",
        "ultraif_ray/method/prompts.py",
        "next(code for code in codes if code not in every)",
        "next(codes)",
        (f"{PROMPTS}::test_an_answer_cannot_end_itself_nor_ask_the_judge_anything",),
    ),
    Mutant(
        "a turn of the history begins another",
        "SECURITY.md: a line that would begin another part is quoted",
        "ultraif_ray/method/prompts.py",
        "{_quoted(turn.content)}",
        "{turn.content}",
        (f"{PROMPTS}::test_no_text_begins_a_part_of_a_message",),
    ),
    Mutant(
        "escapes of a text reach the terminal",
        "SECURITY.md: control characters are written out",
        "ultraif_ray/report/show.py",
        "Segment(printable(segment.text), segment.style)",
        "segment",
        (f"{SHOW}::test_nothing_in_a_text_reaches_the_terminal_but_its_letters",),
    ),
    Mutant(
        "a text is rich's markup",
        "SECURITY.md: rich's markup is off",
        "ultraif_ray/report/show.py",
        "markup=False, emoji=False)",
        "emoji=False)",
        (f"{SHOW}::test_nothing_in_a_text_reaches_the_terminal_but_its_letters",),
    ),
    Mutant(
        "a name in a card ends its code",
        "SECURITY.md: names in cards are code",
        "ultraif_ray/data/card.py",
        'fence = "`"\n    while fence in text:\n        fence += "`"\n    space',
        'fence = "`"\n    space',
        ("tests/data/test_export.py::test_nothing_in_a_card_runs",),
    ),
    Mutant(
        "a model's file leaves its folder",
        "SECURITY.md: files of a model that is fetched stay in the cache",
        "ultraif_ray/engine/models.py",
        "if not place.is_relative_to(folder.resolve()):",
        "if False:",
        ("tests/engine/test_models.py::test_no_file_of_a_model_is_written_outside_of_its_folder",),
    ),
    Mutant(
        "a presigned address is kept",
        "SECURITY.md: passwords and signatures in addresses",
        "ultraif_ray/redact.py",
        "or bool(words & _IN_A_QUERY)",
        "",
        (f"{REDACT}::test_an_address_with_a_secret",),
    ),
    Mutant(
        "a key that a server repeats stands in a row",
        "SECURITY.md: what a server repeats of a key is left out of rows and logs",
        "ultraif_ray/engine/openai.py",
        'str(said).replace(self._client.api_key, "***")',
        "str(said)",
        (f"{OPENAI}::test_a_key_that_a_server_repeats_is_in_no_message",),
    ),
    Mutant(
        "a local cluster takes the folder of another user",
        "cluster/README.md: one that another user may write to is refused",
        "cluster/local.sh",
        '[ ! -O "$HOME_OF_CLUSTER" ] || [ ! -e "$MARK" ] ||',
        '[ ! -e "$MARK" ] ||',
        (f"{FILES}::test_a_local_cluster_takes_no_folder_that_another_could_have_made",),
    ),
    Mutant(
        "torch on a CPU is taken as it comes",
        "SECURITY.md: a hash for every package, and so has torch's CPU build",
        "cluster/Dockerfile.cpu",
        "--no-deps --require-hashes -r /build/requirements/torch-cpu.txt",
        "--no-deps -r /build/requirements/torch-cpu.txt",
        (f"{FILES}::test_torch_on_a_cpu_is_pinned_by_hash",),
    ),
)
