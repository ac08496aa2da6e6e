"""Mutants of the thoughts of reasoning models, wherever they are parted from answers."""

from tests.mutants.mutant import Mutant

THOUGHTS, OPENAI, VLLM = "ultraif_ray/engine/thoughts.py", "ultraif_ray/engine/openai.py", "ultraif_ray/engine/vllm.py"
TEST_OPENAI, TEST_VLLM = "tests/engine/test_openai.py", "tests/engine/test_vllm.py"

MUTANTS = (
    Mutant(
        "a thought without an end is an empty answer",
        "docs/method.md: a thought without an end is no answer, but a reply that was cut off",
        THOUGHTS,
        "answer.lstrip() if ended else None",
        "answer.lstrip()",
        ("tests/engine/test_thoughts.py",),
    ),
    Mutant(
        "an end without a start is a part of the answer",
        "thoughts.split: an end that no start came before ends a thought too",
        THOUGHTS,
        "if not begins and not unannounced:",
        "if not begins:",
        (TEST_OPENAI,),
    ),
    Mutant(
        "a label is read at the thought's first token",
        "Request.labels: strings whose probability as the answer's first token is wanted",
        OPENAI,
        "if thinking and thinking.end.strip() in text and entry.token.strip():",
        "if not text:",
        (TEST_OPENAI,),
    ),
    Mutant(
        "a thought is paid for by the answer",
        "RoleSettings.thinking_tokens: on top of max_tokens",
        OPENAI,
        "else request.max_tokens) + (request.thinking_tokens or 0)",
        "else request.max_tokens)",
        (TEST_OPENAI,),
    ),
    Mutant(
        "the answer is not told the thought",
        "docs/method.md: the second turn goes on from the same text",
        VLLM,
        'f"{begun}{self._chat.quote(one)}{thinking.end}"',
        'f"{begun}{thinking.end}"',
        (TEST_VLLM,),
        heavy=True,
    ),
    Mutant(
        "a role's stop ends its thought",
        "docs/method.md: a role's stop is for the answer alone",
        VLLM,
        '{"stop": (thinking.end.strip(),)}',
        '{"stop": (thinking.end.strip(), *(request.sampling.stop or ()))}',
        (TEST_VLLM,),
        heavy=True,
    ),
    Mutant(
        "a model learns an answer to a prompt that its template never makes",
        "docs/method.md: where a template begins the thought itself, each example ends it before its answer",
        "ultraif_ray/train/tasks.py",
        "_ending_the_thought if begins_thought else _answered",
        "_answered",
        ("tests/train/test_tasks.py",),
    ),
    Mutant(
        "the thoughts of earlier answers stay in a prompt's history",
        "docs/design.md: what a reasoning model thought is taken out of a conversation's turns",
        "ultraif_ray/data/ingest.py",
        'return turn if turn.role != "assistant" else',
        "return turn if turn else",
        ("tests/data/test_ingest.py",),
    ),
    Mutant(
        "a trained model is asked to think",
        "docs/method.md: a model that the run has trained is asked without a budget",
        "ultraif_ray/steps/serving.py",
        '{"pool": pool, "thinking_tokens": None}',
        '{"pool": pool}',
        ("tests/steps/test_serving.py",),
    ),
)
