"""A service in this process, over engines that are scripted or simulated, and a client of it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from tests.scripted import ScriptedEngine, recipe
from ultraif_ray.engine.protocol import Engine
from ultraif_ray.engine.simulated import SimulatedEngine
from ultraif_ray.recipe import Recipe, SimulatedPool, parse_recipe
from ultraif_ray.records import ROLES
from ultraif_ray.serve.app import Service, create_app


def one_pool(**sections: Any) -> Recipe:
    """A recipe whose roles share a simulated pool."""
    roles = {role: {"pool": "m"} for role in ROLES}
    by_text = {"decompose": {"check": "text"}, "synthesize": {"check": "text"} | sections.pop("synthesize", {})}
    return parse_recipe({"name": "test", "pools": {"m": {"engine": "simulated"}}, "roles": roles} | by_text | sections)


def simulated(made: Recipe | None = None, **more: Any) -> Service:
    made = made or one_pool()
    engines: dict[str, Engine] = {
        name: SimulatedEngine(pool) for name, pool in made.pools.items() if isinstance(pool, SimulatedPool)
    }
    return Service(made, engines, **more)


def scripted(made: Recipe | None = None, **roles: ScriptedEngine) -> Service:
    """Each role on a scripted engine of its own, by its name; the judge answers with the responder's."""
    return Service(made or recipe(), {f"{role}s": engine for role, engine in roles.items()})


@asynccontextmanager
async def client(service: Service, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(service), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as one:
        yield one


def events(text: str) -> list[tuple[str, Any]]:
    """The events of a stream: the name of each, and its data, parsed where it is JSON."""
    found = []
    for block in filter(None, text.split("\n\n")):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found
