"""Clients for a load test of `ultraif serve` over a simulated engine: `locust -f tests/serve/locustfile.py`.

Each knows what it must be told, since what that engine says depends on the request alone. An answer that is another one
counts as a failure; so does every status but 200, and but 429, after which it comes again as it was told to.
"""

import asyncio
import itertools
import time

from locust import HttpUser, task

from ultraif_ray.engine.protocol import Request
from ultraif_ray.engine.simulated import SimulatedEngine
from ultraif_ray.recipe import SimulatedPool


async def answers() -> dict[str, str]:
    """What a simulated engine says to messages."""
    engine, told = SimulatedEngine(SimulatedPool(engine="simulated")), {}
    for text in (f"Say something about {number}" for number in range(200)):
        request = Request([{"role": "user", "content": text}], query=text, temperature=0.0)
        told[text] = (await engine.generate(request)).completions[0].text
    return told


ANSWERS = itertools.cycle(asyncio.run(answers()).items())


class Client(HttpUser):
    """One client: it chats, whole and streamed, and lets a response be judged."""

    def on_start(self) -> None:
        """Write down what is right."""
        self.text, self.expected = next(ANSWERS)
        self.body = {"model": "tried", "temperature": 0, "messages": [{"role": "user", "content": self.text}]}
        case = {"query": "Write", "response": "Rain.", "questions": ["Is it wet?", "Is it short?"]}
        self.case = case | {"response": self.text}

    @task(8)
    def chat(self) -> None:
        """Ask for an answer."""
        with self.client.post("/v1/chat/completions", json=self.body, catch_response=True) as got:
            if got.status_code == 429:
                time.sleep(float(got.headers["Retry-After"]))
                got.success()
            elif got.status_code == 200 and got.json()["choices"][0]["message"]["content"] != self.expected:
                got.failure("another answer")

    @task(1)
    def stream(self) -> None:
        """Ask for one in pieces."""
        body = self.body | {"stream": True}
        with self.client.post("/v1/chat/completions", json=body, catch_response=True, name="stream") as got:
            if got.status_code == 200 and "event: error" not in got.text and not got.text.endswith("data: [DONE]\n\n"):
                got.failure("a stream without an end")

    @task(1)
    def judge(self) -> None:
        """Have a response judged."""
        with self.client.post("/v1/judge", json=self.case, catch_response=True) as got:
            if got.status_code == 200 and len(got.json()["verdicts"]) != 2:
                got.failure("a verdict is missing")
