"""Who may ask, how much and for how long; what is logged and counted."""

import asyncio
import json
from typing import Any

import pytest
from starlette.routing import Route

from tests.scripted import ScriptedEngine, saying
from tests.serve.service import client, one_pool, scripted, simulated
from tests.serve.test_app import HI, ROUTES
from ultraif_ray.serve import page
from ultraif_ray.serve.app import create_app
from ultraif_ray.serve.guard import LOOPBACK, OPEN_PATHS, Door, hashed, host_of

CHAT = ROUTES["/v1/chat/completions"]


async def test_with_a_token_every_route_wants_it_but_those_that_tell_nothing() -> None:
    service = simulated(door=Door(hashed(b"secret-token")))
    paths = [
        route.path.replace("{name}", "test") for route in create_app(service).router.routes if isinstance(route, Route)
    ]
    of_page = {route.path for route in page.routes()}
    assert len(paths) == 11 + len(of_page)
    async with client(service) as ask:
        for path in paths:
            done = await ask.request("POST" if path in ROUTES else "GET", path, json=ROUTES.get(path))
            assert (done.status_code == 401) == (path not in {*OPEN_PATHS, *of_page}), path
        refused = await ask.get("/v1/models")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert refused.json()["error"]["type"] == "authentication_error"
        for given in (
            "Bearer wrong",
            "secret-token",
            "Bearer secret-token-",
            "Bearer ",
            "Basic secret-token",
            "Bearer secret-token\xe9",
        ):
            headers = {"Authorization": given.encode("latin-1")}
            assert (await ask.get("/v1/models", headers=headers)).status_code == 401, given  # type: ignore[arg-type]
        assert (await ask.get("/v1/models", headers={"Authorization": "Bearer secret-token"})).status_code == 200


async def test_without_a_token_it_is_asked_as_localhost_alone() -> None:
    """Else the page of another site, whose name leads here, could ask through a browser (DNS rebinding)."""
    async with client(simulated(door=Door(hosts=LOOPBACK))) as ask:
        for host, status in (("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("evil.example", 400)):
            assert (await ask.get("/v1/models", headers={"Host": host})).status_code == status, host


@pytest.mark.parametrize(
    ("header", "host"), [("a.b:80", "a.b"), ("[::1]:80", "::1"), ("[::1]", "::1"), ("LOCALHOST", "localhost"), ("", "")]
)
def test_the_host_of_a_header(header: str, host: str) -> None:
    assert host_of(header) == host


async def test_a_request_that_is_too_large_is_refused_whether_it_says_so_or_not() -> None:
    made = one_pool(serve={"max_body_bytes": 1000})
    body = json.dumps(CHAT | {"user": "x" * 1000}).encode()

    async def in_parts() -> Any:
        for place in range(0, len(body), 100):
            yield body[place : place + 100]

    async with client(simulated(made)) as ask:
        for content in (body, in_parts()):
            done = await ask.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
            assert done.status_code == 413
            assert done.json()["error"]["message"] == "the request is larger than 1000 bytes"
        assert (await ask.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_no_more_requests_are_open_than_the_recipe_says() -> None:
    made = one_pool(serve={"max_open": 2})
    go_on, both, waiting = asyncio.Event(), asyncio.Event(), 0

    class Waiting(ScriptedEngine):
        async def generate(self, request: Any) -> Any:
            nonlocal waiting
            waiting += 1
            if waiting == 2:
                both.set()
            await go_on.wait()
            return await super().generate(request)

    service = type(simulated())(made, {"m": Waiting(lambda request, number: "hello")})
    async with client(service) as ask:
        asked = [asyncio.create_task(ask.post("/v1/chat/completions", json=CHAT)) for _ in range(2)]
        await both.wait()
        full = await ask.post("/v1/chat/completions", json=CHAT)
        assert (full.status_code, full.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(full.headers["retry-after"]) > 0
        assert (await ask.get("/v1/models")).status_code == 200
        assert "ultraif_open_requests 2.0" in (await ask.get("/metrics")).text
        go_on.set()
        assert [one.status_code for one in await asyncio.gather(*asked)] == [200, 200]
        assert (await ask.post("/v1/chat/completions", json=CHAT)).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_takes_too_long_is_given_up(stream: bool) -> None:
    class Slow(ScriptedEngine):
        async def generate(self, request: Any) -> Any:
            await asyncio.sleep(60)

    made = one_pool(serve={"timeout_s": 0.05})
    async with client(type(simulated())(made, {"m": Slow(lambda request, number: "")})) as ask:
        done = await ask.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert done.status_code == 504
    assert done.json()["error"]["message"].startswith("no answer in 0.05 s")


async def test_the_log_has_a_line_for_each_request_and_none_of_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    service = scripted(responder=saying("the answer's text"))
    async with client(service) as ask:
        body = CHAT | {"messages": [{"role": "user", "content": "the prompt's text"}]}
        done = await ask.post("/v1/chat/completions?q=the+query", json=body, headers={"Authorization": "Bearer token"})
        await ask.get("/some/path/of/a/client")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert first.pop("time") > 1e9
    assert first.pop("seconds") >= 0
    assert first == {
        "event": "request", "id": done.headers["x-request-id"], "method": "POST", "route": "/v1/chat/completions",
        "status": 200,
    }  # fmt: skip
    assert (second["route"], second["status"]) == ("other", 404)


async def test_metrics_count_requests_and_tokens_under_few_names() -> None:
    async with client(scripted(responder=saying("hello"))) as ask:
        await ask.post("/v1/chat/completions", json=CHAT)
        for number in range(3):
            await ask.get(f"/{number}")
            await ask.post("/v1/chat/completions", json={"model": f"m{number}", "messages": HI})
        text = (await ask.get("/metrics")).text
    assert 'ultraif_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'ultraif_requests_total{route="/v1/chat/completions",status="404"} 3.0' in text
    assert 'ultraif_requests_total{route="other",status="404"} 3.0' in text
    assert 'ultraif_generated_tokens_total{model="test"} 3.0' in text
    assert "m1" not in text


async def test_every_answer_tells_a_browser_to_load_nothing_from_elsewhere() -> None:
    async with client(simulated()) as ask:
        for path in ("/health", "/nowhere", "/v1/models"):
            headers = (await ask.get(path)).headers
            assert headers["content-security-policy"].startswith("default-src 'self';")
            assert headers["x-content-type-options"] == "nosniff"
