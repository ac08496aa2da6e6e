"""The routes, in this process, over scripted and simulated engines."""

import asyncio
import json
from typing import Any

import pytest

from tests.scripted import ScriptedEngine, as_json, labels, recipe, saying
from tests.serve.service import client, events, one_pool, scripted, simulated
from ultraif_ray.engine.protocol import Completion, Request, Token
from ultraif_ray.errors import EngineBusy, EngineDead, EngineUnavailable, RequestRefused
from ultraif_ray.recipe import Recipe

HI = [{"role": "user", "content": "hi"}]
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "test", "messages": HI},
    "/v1/compose": {"prompt": "Write about rain", "rounds": 1},
    "/v1/decompose": {"prompt": "Write about rain in French"},
    "/v1/judge": {"query": "Write", "response": "Rain.", "questions": ["Is it wet?"]},
}

STREAMED = ("/v1/chat/completions", "/v1/compose")


def composition(query: str, question: str) -> str:
    return as_json({"augmented query": query, "question": [question]})


RAIN = [
    composition("Write about rain in French", "Is it in French?"),
    composition("Write about rain in French, and name a river", "Does it name a river?"),
]


async def test_composing_adds_a_round_at_a_time_and_gives_what_checks_it() -> None:
    engine = saying(*RAIN)
    async with client(scripted(composer=engine)) as ask:
        done = await ask.post("/v1/compose", json={"prompt": "Write about rain", "rounds": 2})
    assert done.status_code == 200
    made = done.json()
    assert made["query"] == "Write about rain in French, and name a river"
    assert made["questions"] == ["Is it in French?", "Does it name a river?"]
    assert [(one["text"], one["question"]) for one in made["constraints"]] == [
        ("in French", "Is it in French?"),
        ("and name a river", "Does it name a river?"),
    ]
    assert len({one["category"] for one in made["constraints"]}) == 2
    assert "stopped" not in made
    assert [request.role for request in engine.asked] == ["composer", "composer"]


async def test_rounds_stream_as_they_come_and_the_last_event_is_the_whole() -> None:
    for more, headers in (({"stream": True}, {}), ({}, {"Accept": "text/event-stream"})):
        async with client(scripted(composer=saying(*RAIN))) as ask:
            body = {"prompt": "Write about rain", "rounds": 2, **more}
            done = await ask.post("/v1/compose", json=body, headers=headers)
        assert done.headers["content-type"].startswith("text/event-stream")
        got = events(done.text)
        assert [name for name, _ in got] == ["round", "round", "done"]
        assert [len(data["constraints"]) for _, data in got] == [1, 2, 2]
        assert got[1][1] == got[2][1]


async def test_a_round_that_fails_says_why_and_keeps_those_before() -> None:
    same = composition("Write about rain in French", "Is it?")
    async with client(scripted(composer=saying(RAIN[0], *[same] * 3))) as ask:
        made = (await ask.post("/v1/compose", json={"prompt": "Write about rain", "rounds": 2})).json()
    assert made["query"] == "Write about rain in French"
    assert made["stopped"] == "round 2: query left as it was"
    async with client(scripted(composer=saying(*[same] * 3))) as ask:
        body = {"prompt": "Write about rain in French", "rounds": 2, "stream": True}
        ((name, data),) = events((await ask.post("/v1/compose", json=body)).text)
    assert (name, data["constraints"], data["stopped"]) == ("done", [], "round 1: query left as it was")


async def test_decomposing_gives_constraints_or_says_why_there_are_none() -> None:
    found = {"category": "linguistic", "constraint": "in French", "simplified_query": "Write about rain"}
    reply = as_json({"constraints": [found | {"question": "Is it in French?"}]})
    async with client(scripted(decomposer=saying(reply))) as ask:
        made = (await ask.post("/v1/decompose", json={"prompt": "Write about rain in French"})).json()
    (one,) = made["constraints"]
    assert one == {
        "text": "in French",
        "category": "linguistic",
        "simplified_query": "Write about rain",
        "question": "Is it in French?",
    }
    async with client(scripted(decomposer=saying("{", "{", "{"))) as ask:
        made = (await ask.post("/v1/decompose", json={"prompt": "Write about rain"})).json()
    assert made == {"constraints": [], "stopped": "not JSON"}


def judging(way: str) -> Recipe:
    return recipe(synthesize={"judge": way})


async def test_a_response_is_judged_in_the_recipes_way_and_every_question_is_asked() -> None:
    case = {"query": "Write", "response": "Rain.", "questions": ["Is it dry?", "Is it wet?", "Is it?"]}
    async with client(scripted(judging("logprob"), responder=saying(labels(0.1), labels(0.9), Completion("")))) as ask:
        judged = (await ask.post("/v1/judge", json=case)).json()
    verdicts = [(one["question"], one["answer"], one.get("p_yes"), one["by"]) for one in judged["verdicts"]]
    assert verdicts == [
        ("Is it dry?", "no", pytest.approx(0.1), "judge"),
        ("Is it wet?", "yes", pytest.approx(0.9), "judge"),
        ("Is it?", "missing", None, "judge"),
    ]
    assert (judged["passed"], judged["share"]) == (False, pytest.approx(1 / 3))
    reasons = as_json({str(i): {"explanation": "since", "answer": "YES"} for i in (1, 2, 3)})
    async with client(scripted(judging("rationale"), responder=saying(reasons))) as ask:
        judged = (await ask.post("/v1/judge", json=case)).json()
    assert (judged["passed"], judged["share"]) == (True, 1.0)
    assert judged["verdicts"][0]["explanation"] == "since"


async def test_code_answers_what_it_is_given_a_checker_for() -> None:
    engine = saying(labels(0.9))
    case = {"query": "Write", "response": "Rain falls here.", "questions": ["Three words?", "Is it wet?"]}
    case["checkers"] = {"Three words?": {"name": "words", "relation": "exactly", "number": 3}}  # type: ignore[assignment]
    async with client(scripted(judging("logprob"), responder=engine)) as ask:
        judged = (await ask.post("/v1/judge", json=case)).json()
    assert [(one["answer"], one["by"]) for one in judged["verdicts"]] == [("yes", "code"), ("yes", "judge")]
    assert len(engine.asked) == 1


async def test_a_batch_is_judged_in_its_order() -> None:
    def script(request: Request, number: int) -> Completion:
        return labels(0.9 if "wet" in request.messages[-1]["content"] else 0.1)

    engine = ScriptedEngine(script, turns=lambda request: 3 - len(engine.asked))
    items = [{"query": "Write", "response": text, "questions": ["Is it?"]} for text in ("wet", "dry", "wet rain")]
    async with client(scripted(judging("logprob"), responder=engine)) as ask:
        judged = (await ask.post("/v1/judge", json={"items": items})).json()
    assert [one["passed"] for one in judged["items"]] == [True, False, True]


async def test_models_have_the_recipes_name_and_those_of_the_roles_and_adapters() -> None:
    made = one_pool(serve={"adapters": {"tuned": "org/tuned"}})
    asked: list[Request] = []

    def script(request: Request, number: int) -> str:
        asked.append(request)
        return "hello"

    service = simulated(made)
    service = type(service)(made, {"m": ScriptedEngine(script)})
    async with client(service) as ask:
        listed = (await ask.get("/v1/models")).json()
        names = [one["id"] for one in listed["data"]]
        for name in names:
            assert (await ask.get(f"/v1/models/{name}")).json()["id"] == name
            assert (await ask.post("/v1/chat/completions", json={"model": name, "messages": HI})).status_code == 200
        about = (await ask.get("/v1/service")).json()
        missing = await ask.post("/v1/chat/completions", json={"model": "gpt", "messages": HI})
    assert names == ["test", "tuned", "decomposer", "composer", "responder", "judge"]
    assert [request.adapter for request in asked] == ["", "org/tuned", "", "", "", ""]
    assert about["models"] == names
    assert about["judge"] == {"model": "simulated", "way": "rationale"}
    assert about["limits"]["max_questions"] == made.serve.max_questions
    assert missing.status_code == 404
    assert missing.json()["error"]["message"].startswith("there is no model 'gpt' here; there is test, tuned, ")


async def test_a_chat_request_reaches_the_engine_as_it_was_asked() -> None:
    engine = saying("hello", "hello")
    body = {
        "model": "test",
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]},
            {"role": "assistant", "content": None, "refusal": None},
            {"role": "user", "content": "again"},
        ],
        "max_completion_tokens": 9999,
        "temperature": 0.3,
        "top_p": 0.9,
        "stop": "END",
        "presence_penalty": 0.5,
        "min_p": 0.1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
        "seed": 3,
        "user": "me",
    }
    async with client(scripted(responder=engine)) as ask:
        assert (await ask.post("/v1/chat/completions", json=body)).status_code == 200
        assert (await ask.post("/v1/chat/completions", json={"model": "test", "messages": HI})).status_code == 200
    first, plain = engine.asked
    assert [(one["role"], one["content"]) for one in first.messages] == [
        ("system", "Be brief."),
        ("user", "hi"),
        ("assistant", ""),
        ("user", "again"),
    ]
    assert (first.temperature, first.top_p, first.max_tokens) == (0.3, 0.9, 4096)  # no more than the service gives
    assert first.sampling.given == {"stop": ["END"], "presence_penalty": 0.5, "min_p": 0.1}
    assert first.schema == {"type": "object"}
    assert (plain.temperature, plain.top_p, plain.max_tokens, plain.sampling.given) == (1.0, 1.0, 2048, {})
    assert plain.top_logprobs is None


async def test_answers_come_with_usage_finish_and_logprobs() -> None:
    tokens = (Token("he", -0.25, {"he": -0.25, "je": -2.0}), Token("y", float("-inf")))
    answers: list[str | Completion] = [Completion("hey", tokens=tokens), Completion("he", "length", thoughts="hm")]
    async with client(scripted(responder=saying(answers))) as ask:
        body = {"model": "test", "messages": HI, "n": 2, "logprobs": True, "top_logprobs": 2}
        made = (await ask.post("/v1/chat/completions", json=body)).json()
    first, second = made["choices"]
    assert (first["message"], first["finish_reason"]) == ({"role": "assistant", "content": "hey"}, "stop")
    assert (second["message"]["reasoning"], second["finish_reason"]) == ("hm", "length")
    top = [(one["token"], one["logprob"]) for one in first["logprobs"]["content"][0]["top_logprobs"]]
    assert top == [("he", -0.25), ("je", -2.0)]
    assert first["logprobs"]["content"][1]["logprob"] == -9999.0
    assert made["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 6,
        "total_tokens": 16,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


async def test_a_stream_is_the_same_answer_in_pieces() -> None:
    body = {"model": "test", "messages": HI, "n": 2}
    async with client(simulated()) as ask:
        whole = (await ask.post("/v1/chat/completions", json=body)).json()
        more = {"stream": True, "stream_options": {"include_usage": True}}
        streamed = events((await ask.post("/v1/chat/completions", json=body | more)).text)
        plain = events((await ask.post("/v1/chat/completions", json=body | {"stream": True})).text)
    assert streamed[-1][1] == plain[-1][1] == "[DONE]"
    chunks = [data for _, data in streamed[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    texts, finishes = ["", ""], [None, None]
    for chunk in chunks[:-1]:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["delta"].get("content", "")
        finishes[choice["index"]] = choice["finish_reason"]
    assert texts == [choice["message"]["content"] for choice in whole["choices"]]
    assert finishes == ["stop", "stop"]
    assert len(chunks) > 20
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], whole["usage"])
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert not any("usage" in data for _, data in plain[:-1])


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("error", "status", "kind", "said"),
    [
        (RequestRefused("the prompt is 900 tokens long"), 400, "invalid_request_error", "the prompt is 900 tokens"),
        (EngineBusy("full"), 429, "rate_limit_error", "all engines are busy"),
        (EngineUnavailable("http://10.0.0.7: no answer"), 503, "unavailable_error", "an engine was lost"),
        (EngineDead("killed"), 503, "unavailable_error", "an engine was lost"),
        (KeyError("a secret"), 500, "internal_error", "nobody foresaw"),
    ],
    ids=["refused", "busy", "unavailable", "dead", "unforeseen"],
)
async def test_what_goes_wrong_in_an_engine_is_one_sentence(
    path: str, error: Exception, status: int, kind: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = ScriptedEngine(lambda request, number: error)
    service = scripted(composer=engine, decomposer=engine, responder=engine)
    for more in ({}, {"stream": True}) if path in STREAMED else ({},):
        async with client(service) as ask:
            done = await ask.post(path, json=ROUTES[path] | more)
        found = done.json()["error"]
        assert (done.status_code, found["type"]) == (status, kind)
        assert said in found["message"]
        assert ("retry-after" in done.headers) == (status in (429, 503))
        assert not any(word in done.text for word in ("10.0.0.7", "secret", "Traceback"))
    assert "secret" not in capsys.readouterr().err


async def test_an_engine_that_is_lost_in_the_middle_of_a_stream_ends_it_with_an_error() -> None:
    class Dying(ScriptedEngine):
        async def stream(self, request: Request) -> Any:
            async for piece in super().stream(request):
                yield piece
                raise EngineDead("killed")

    async with client(scripted(responder=Dying(lambda request, number: "hello"))) as ask:
        got = events(
            (await ask.post("/v1/chat/completions", json=ROUTES["/v1/chat/completions"] | {"stream": True})).text
        )
    assert got[0][1]["choices"][0]["delta"]["content"] == "hello"
    assert (got[1][0], got[1][1]["error"]["type"]) == ("error", "unavailable_error")
    assert len(got) == 2  # nothing says that it was whole


async def test_a_stream_that_is_left_ends_what_the_engine_does() -> None:
    ended = asyncio.Event()

    class Endless(ScriptedEngine):
        async def stream(self, request: Request) -> Any:
            try:
                while True:
                    async for piece in super().stream(request):
                        yield piece
                        break
                    await asyncio.sleep(0)
            finally:
                ended.set()

    from ultraif_ray.serve.app import create_app

    app = create_app(scripted(responder=Endless(lambda request, number: "again ")))
    body = json.dumps(ROUTES["/v1/chat/completions"] | {"stream": True}).encode()
    sent = 0
    enough = asyncio.Event()

    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > 5:
            enough.set()

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/v1/chat/completions", "raw_path": b"", "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
    }  # fmt: skip
    asking = asyncio.create_task(app(scope, receive, send))
    await enough.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(ended.wait(), 10)


CHAT = "/v1/chat/completions"
NESTED = '{"prompt": ' + "[" * 100_000


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        ("/v1/compose", {}, "prompt", "Field required"),
        ("/v1/compose", {"prompt": " \n"}, "prompt", "there is no text in it"),
        ("/v1/compose", {"prompt": "a", "rounds": 99}, "rounds", "99 are too many; at most 6"),
        ("/v1/compose", {"prompt": "a", "round": 1}, "round", "Extra inputs are not permitted"),
        ("/v1/compose", {"prompt": "a", "history": [{"role": "tool", "content": "x"}]}, "history.0.role", "should be"),
        ("/v1/compose", '{"prompt": "\\ud800"}', None, "half of a surrogate pair"),
        ("/v1/compose", "{", None, "not valid JSON"),
        ("/v1/compose", NESTED, None, "parsing the body"),
        ("/v1/compose", "", None, "Field required"),
        ("/v1/judge", {"items": [{"query": "a"}]}, "items.0.response", "Field required"),
        ("/v1/judge", {"query": "a", "response": "b", "questions": []}, "questions", "at least 1 item"),
        ("/v1/judge", {"query": "a", "response": "b", "questions": ["Is it?"] * 65}, "questions", "65 are too many"),
        ("/v1/judge", {"items": [{"query": "a", "response": "b", "questions": ["c"]}] * 65}, "items", "65 are too"),
        (CHAT, {"messages": HI}, "model", "Field required"),
        (CHAT, {"model": "test", "messages": []}, "messages", "at least 1 item"),
        (CHAT, {"model": "test", "messages": HI, "n": 17}, "n", "at most 16"),
        (CHAT, {"model": "test", "messages": HI, "tools": []}, "tools", "not permitted"),
        (CHAT, {"model": "test", "messages": HI, "top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        (CHAT, '{"model": "test", "messages": [], "temperature": NaN}', "messages", "at least 1 item"),
        (CHAT, {"model": "test", "messages": [{"role": "tool", "content": "x"}]}, "messages.0.role",
         "should be 'system', 'developer', 'user' or 'assistant'"),
        (CHAT, {"model": "test", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
         "messages.0.content", "should be"),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_one_sentence_that_names_the_field(
    path: str, body: Any, param: str | None, said: str
) -> None:
    text = body if isinstance(body, str) else json.dumps(body)
    async with client(simulated()) as ask:
        done = await ask.post(path, content=text, headers={"Content-Type": "application/json"})
    assert done.status_code == 400
    found = done.json()["error"]
    assert (found["type"], found.get("param")) == ("invalid_request_error", param)
    assert said in found["message"]


async def test_what_is_no_json_by_its_type_is_refused() -> None:
    async with client(simulated()) as ask:
        body = json.dumps(ROUTES["/v1/compose"])
        assert (await ask.post("/v1/compose", content=body, headers={"Content-Type": "text/plain"})).status_code == 400


async def test_ready_says_which_engines_are_not_there_yet() -> None:
    loading = ["m"]
    async with client(simulated(loading=lambda: loading)) as ask:
        waiting = await ask.get("/ready")
        assert (waiting.status_code, waiting.json()) == (503, {"status": "loading", "loading": ["m"]})
        assert int(waiting.headers["retry-after"]) > 0
        assert (await ask.get("/health")).status_code == 200
        loading.clear()
        assert (await ask.get("/ready")).json() == {"status": "ok", "loading": []}


async def test_the_schema_names_every_route_and_error() -> None:
    async with client(simulated()) as ask:
        schema = (await ask.get("/openapi.json")).json()
    assert set(schema["paths"]) == {
        *ROUTES, "/v1/models", "/v1/models/{name}", "/v1/service", "/health", "/ready", "/metrics",
    }  # fmt: skip
    for path in ROUTES:
        assert {"200", "400", "401", "413", "429", "503", "504"} <= set(schema["paths"][path]["post"]["responses"])
        assert "422" not in schema["paths"][path]["post"]["responses"]
