"""The reward of `docs/reward.py`, from a service in a thread of this process."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import reward
import uvicorn

from tests.scripted import ScriptedEngine, labels, recipe
from tests.serve.service import scripted
from ultraif_ray.engine.protocol import Completion, Request
from ultraif_ray.errors import EngineBusy
from ultraif_ray.serve import guard
from ultraif_ray.serve.app import create_app


def script(request: Request, number: int) -> Completion | Exception:
    """Full at first; then whatever is wet is so."""
    if number == 0:
        return EngineBusy("full")
    return labels(0.9 if "rain" in request.messages[-1]["content"] else 0.1)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(guard, "RETRY_AFTER_S", 0)
    monkeypatch.delenv("ULTRAIF_SERVE_TOKEN", raising=False)
    app = create_app(scripted(recipe(synthesize={"judge": "logprob"}), responder=ScriptedEngine(script)))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    monkeypatch.setenv("ULTRAIF_SERVE_URL", f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    yield
    server.should_exit = True
    thread.join()


TWO_WORDS = {"name": "words", "relation": "exactly", "number": 2, "texts": []}
ROW: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "Write"}],
    "questions": ["Is it wet?", "Is it two words?"],
    "checks": [None, TWO_WORDS],
}


@pytest.mark.usefixtures("service")
async def test_an_answers_reward_is_the_share_of_its_questions_in_every_form() -> None:
    answers = ["rain falls", "it may rain today", "dust"]
    completions = [[{"role": "assistant", "content": one}] for one in answers]
    columns = {name: [ROW[name]] * 3 for name in ("questions", "checks")}
    assert await reward.share_of_questions([ROW["prompt"]] * 3, completions, **columns, id=[1, 2, 3]) == [1.0, 0.5, 0.0]
    assert await reward.compute_score("rl", "rain falls", None, ROW) == 1.0


@pytest.mark.usefixtures("service")
def test_frameworks_that_do_not_await() -> None:
    queries = [f"Write{one}" for one in ("rain falls", "dust")]
    assert reward.reward_func(queries, ["Write"] * 2, [json.dumps(ROW)] * 2).tolist() == [1.0, 0.0]
    made = reward.JudgedAnswer(None, ROW).step("it may rain today")
    assert (made["reward"], made["done"], len(made["metadata"]["verdicts"])) == (0.5, True, 2)
