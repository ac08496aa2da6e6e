"""Mutants of `ultraif_ray/serve/`: who may ask, what clients are told, what is lost."""

from tests.mutants.mutant import Mutant

APP, GUARD, SERVED = "tests/serve/test_app.py", "tests/serve/test_guard.py", "tests/serve/test_served.py"
COMMAND = "tests/serve/test_command.py"

MUTANTS = (
    Mutant(
        "metrics need no token",
        "docs/serve.md: /v1 and /metrics want the token",
        "ultraif_ray/serve/guard.py",
        'scope["path"] == "/metrics" or scope["path"].startswith("/v1")',
        'scope["path"].startswith("/v1")',
        (f"{GUARD}::test_with_a_token_every_route_wants_it_but_those_that_tell_nothing",),
    ),
    Mutant(
        "any host is let in",
        "docs/serve.md: without a token it answers only who asks for localhost",
        "ultraif_ray/serve/guard.py",
        'elif self.hosts and host_of(headers.get("host", "")) not in self.hosts:',
        "elif False:",
        (f"{GUARD}::test_without_a_token_it_is_asked_as_localhost_alone",),
    ),
    Mutant(
        "a body without a length is not bounded",
        "docs/serve.md: 413 too large",
        "ultraif_ray/serve/guard.py",
        "        if size > most:\n",
        "        if False:\n",
        (f"{GUARD}::test_a_request_that_is_too_large_is_refused_whether_it_says_so_or_not",),
    ),
    Mutant(
        "an error's own words reach clients",
        "guard.py: nothing of its traceback, nor of where engines are",
        "ultraif_ray/serve/guard.py",
        '"an engine was lost, or does not answer: ask again later"',
        'f"an engine was lost, or does not answer: {error}"',
        (f"{APP}::test_what_goes_wrong_in_an_engine_is_one_sentence",),
    ),
    Mutant(
        "a stream that breaks ends as if it were whole",
        "docs/serve.md: in a stream that has begun, an event error is the last one",
        "ultraif_ray/serve/guard.py",
        "            if self._events:\n",
        "            if False:\n",
        (f"{APP}::test_an_engine_that_is_lost_in_the_middle_of_a_stream_ends_it_with_an_error",),
    ),
    Mutant(
        "paths that clients make up are metrics of their own",
        "guard.py: a bounded number of names, whatever paths are asked for",
        "ultraif_ray/serve/guard.py",
        'or "other"',
        'or scope["path"]',
        (f"{GUARD}::test_metrics_count_requests_and_tokens_under_few_names",),
    ),
    Mutant(
        "a judge stops at the first no",
        "docs/serve.md: every question is asked, also behind a no",
        "ultraif_ray/serve/app.py",
        'update={"ask_all": True}',
        "update={}",
        (f"{APP}::test_a_response_is_judged_in_the_recipes_way_and_every_question_is_asked",),
    ),
    Mutant(
        "a round that fails loses those before",
        "docs/serve.md: what was added before stays, and stopped says why",
        "ultraif_ray/serve/app.py",
        'yield _composed(instruction, f"round {instruction.level + 1}: {why}")',
        'yield _composed(instruction.at(0), f"round {instruction.level + 1}: {why}")',
        (f"{APP}::test_a_round_that_fails_says_why_and_keeps_those_before",),
    ),
    Mutant(
        "tokens are not bounded",
        "docs/serve.md: max_tokens above serve.max_tokens counts as that",
        "ultraif_ray/serve/chat.py",
        "max_tokens=min(asked, limits.max_tokens)",
        "max_tokens=asked",
        (f"{APP}::test_a_chat_request_reaches_the_engine_as_it_was_asked",),
    ),
    Mutant(
        "the first policy is served",
        "docs/serve.md: a run is served with what it trained in its roles",
        "ultraif_ray/serve/served.py",
        '            trained["policy"] = folder.uri(step.name)',
        '            trained.setdefault("policy", folder.uri(step.name))',
        (f"{SERVED}::test_a_run_is_served_with_all_that_it_trained",),
    ),
    Mutant(
        "a service beyond this machine wants no token",
        "docs/serve.md: with a token --host may be any",
        "ultraif_ray/serve/command.py",
        'if host not in LOOPBACK and not host.startswith("127."):',
        "if False:",
        (f"{COMMAND}::test_who_listens_beyond_this_machine_has_a_token",),
    ),
    Mutant(
        "a replica that dies loses its requests",
        "docs/serve.md: a request that it had is asked once more of another replica",
        "ultraif_ray/serve/deployment.py",
        "                _raise_unless_lost(error, last_try)\n",
        "                _raise_unless_lost(error, True)\n",
        (f"{COMMAND}::test_a_service_answers_loses_no_request_with_a_replica_and_ends_with_ctrl_c",),
        heavy=True,
    ),
)
