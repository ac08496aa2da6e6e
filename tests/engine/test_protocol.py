from tests.scripted import saying
from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.recipe import parse_recipe
from ultraif_ray.records import ROLES


async def test_a_request_samples_as_its_role_says_and_names_its_row() -> None:
    roles = {role: {"pool": "m"} for role in ROLES}
    own = {"responder": {"pool": "m", "stop": ["END"], "min_p": 0.05, "temperature": 0.8}}
    own["judge"] = {"pool": "m", "thinking_tokens": 300}
    made = parse_recipe({"name": "x", "pools": {"m": {"engine": "simulated"}}, "roles": roles | own})
    engine = saying("a", "b")
    client = RoleClient(made, {"m": engine}, row=7)
    await client.ask("responder", [], "q")
    await client.ask("judge", [], "q")
    responder, judge = engine.asked
    assert (responder.temperature, responder.sampling.given) == (0.8, {"stop": ["END"], "min_p": 0.05})
    assert judge.sampling.given == {}
    assert (responder.row, judge.row) == (7, 7)
    assert (responder.thinking_tokens, judge.thinking_tokens) == (None, 300)
