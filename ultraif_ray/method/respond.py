"""Step 3a: answer an instruction (paper, section 2.3)."""

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.method import prompts
from ultraif_ray.records import Response, Turn


async def respond(query: str, history: list[Turn], n: int, client: RoleClient) -> list[Response]:
    """Sample `n` answers to `query`, in sampling order.

    The responder may be asked with a system prompt; what is stored and trained on has the bare query.
    """
    completions = await client.ask("responder", prompts.respond(client.templates, query, history), query, n=n)
    return [Response(text=c.text.strip(), finish=c.finish) for c in completions]
