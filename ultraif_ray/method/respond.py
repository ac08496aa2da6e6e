"""Step 3a: answer an instruction (paper, section 2.3); and answer what a benchmark asks."""

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.method import prompts
from ultraif_ray.records import Asked, Message, Response, Turn


async def respond(query: str, history: list[Turn], n: int, client: RoleClient) -> list[Response]:
    """Sample `n` answers to `query`, in sampling order.

    The responder may be asked with a system prompt; what is stored and trained on has the bare query.
    """
    completions = await client.ask("responder", prompts.respond(client.templates, query, history), query, n=n)
    return [Response(text=c.text.strip(), finish=c.finish) for c in completions]


async def answer_benchmark(row: Asked, client: RoleClient) -> None:
    """Answer a benchmark's request as it is: it says itself what the system prompt is, and how it is drawn."""
    messages: list[Message] = [turn.model_dump() for turn in row.history]
    (found,) = await client.ask("responder", [*messages, {"role": "user", "content": row.query}], row.query, asked=row)
    if row.continuation is None:
        row.response = Response(text=found.text, finish=found.finish)
    else:
        row.logprob, row.greedy = found.logprob, found.greedy
