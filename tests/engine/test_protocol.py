from tests.scripted import recipe, saying
from ultraif_ray.engine.protocol import RoleClient


async def test_a_request_samples_as_its_role_says() -> None:
    made = recipe(
        pools={"m": {"engine": "simulated"}},
        roles={
            "decomposer": {"pool": "m"},
            "composer": {"pool": "m"},
            "responder": {"pool": "m", "stop": ["END"], "min_p": 0.05, "temperature": 0.8},
            "judge": {"pool": "m"},
        },
    )
    engine = saying("a", "b")
    client = RoleClient(made, {"m": engine})
    await client.ask("responder", [], "q")
    await client.ask("judge", [], "q")
    responder, judge = engine.asked
    assert (responder.temperature, responder.sampling.given) == (0.8, {"stop": ["END"], "min_p": 0.05})
    assert judge.sampling.given == {}
