import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.cluster import READING_AND_WRITING, Cluster, Node
from ultraif_ray.recipe import (
    SHIPPED,
    Section,
    VllmPool,
    difference,
    dumped,
    fingerprint,
    in_json,
    load_recipe,
    parse_recipe,
)
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import all_needs, check_room
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.templates import load_shipped

SHIPPED_FILES = sorted(SHIPPED.glob("*.yaml"))

MINIMAL: dict[str, Any] = {
    "name": "x",
    "pools": {"m": {"engine": "simulated"}},
    "roles": {role: {"pool": "m"} for role in ("decomposer", "composer", "responder", "judge")},
}


def write(tmp_path: Path, data: Any) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return file


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.name)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path).name == path.stem


HEADS = {
    "base_model": ("One GPU of 24 GB", 1),
    "checked": ("one GPU of 80 GB", 1),
    "demo": ("two CPU cores", 0),
    "lora_24gb": ("a single GPU of 24 GB", 1),
    "self_alignment": ("Eight GPUs of 80 GB, as in the paper, make good use of it; four work", 4),
    "strong_to_weak": ("eight GPUs of 80 GB on one node, as in the paper, hold every step, and six are the fewest", 6),
    "three_pools": ("fit a laptop", 0),
}
"""What the head of each shipped recipe says that it needs, and as GPUs of one node."""


@pytest.mark.parametrize("path", SHIPPED_FILES, ids=lambda path: path.name)
def test_every_shipped_recipe_fits_the_gpus_that_its_head_names_and_no_fewer(path: Path, tmp_path: Path) -> None:
    words, gpus = HEADS[path.stem]
    assert words in " ".join(path.read_text().replace("\n# ", " ").split())
    recipe, folder = load_recipe(path), RunFolder(str(tmp_path))
    steps = plan(recipe, folder)
    needs = all_needs(steps, {step.name: Context(in_round(recipe, step.round), folder) for step in steps})

    def node_of(gpus: int) -> Cluster:  # twelve cores a GPU, as the launchers' machines have; or a laptop's two
        return Cluster((Node({"CPU": 12.0 * gpus or 2.0 + READING_AND_WRITING, "GPU": float(gpus)}),))

    check_room(needs, node_of(gpus))
    if gpus:
        with pytest.raises(RecipeError, match="GPU"):
            check_room(needs, node_of(gpus - 1))


def test_the_recipe_in_the_readme_is_valid() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    made = parse_recipe(yaml.safe_load("".join(blocks)))
    assert [made.dpo_in_round(number)["loss_type"] for number in (1, 3)] == [["sigmoid"], ["nca_pair"]]
    assert made.dpo["fsdp"] == made.sft["fsdp"]


def test_the_recipes_are_what_the_readme_says_of_them() -> None:
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", Path("README.md").read_text(), re.MULTILINE)
    said = {name: what for name, what in table if name in {path.stem for path in SHIPPED_FILES}}
    assert set(said) == {path.stem for path in SHIPPED_FILES}
    for name, what in said.items():
        made = load_recipe(name)
        gpus = [made.train.gpus, *(pool.gpus for pool in made.pools.values())]
        assert ("laptop" in what) == (max(gpus) == 0), name
        assert ("one GPU" in what) == (gpus == [1, 1]), name
        trained = [section.lora is None for section in (made.composer, made.policy) if section]
        if "adapters only" in what:
            assert trained == [False, False]
    pools = load_recipe("three_pools").roles
    assert len({role.pool for role in (pools.decomposer, pools.composer, pools.responder)}) == 3


def test_a_models_own_code_runs_only_where_the_recipe_says_so() -> None:
    pool = {"m": {"engine": "vllm", "model": "org/m"}}
    made = parse_recipe(MINIMAL | {"pools": pool, "policy": {"model": "org/p"}, "composer": {"model": "org/c"}})
    assert isinstance(made.pools["m"], VllmPool)
    assert made.policy
    assert made.composer
    assert not any(part.trust_remote_code for part in (made.pools["m"], made.policy, made.composer))
    with pytest.raises(RecipeError, match="say it beside the model"):
        parse_recipe(MINIMAL | {"sft": {"trust_remote_code": True}})


def test_the_papers_sampling_is_the_default() -> None:
    made = parse_recipe(MINIMAL)
    assert (made.roles.responder.temperature, made.roles.responder.top_p) == (1.0, 0.95)
    assert (made.roles.composer.temperature, made.roles.judge.temperature) == (0.7, 0.0)
    assert (made.synthesize.k, max(made.synthesize.rounds), made.synthesize.judge) == (5, 3, "rationale")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("synthesize.kk=3", "synthesize.kk: unknown key; did you mean 'k'?"),
        ("sinthesize.k=3", "sinthesize: unknown key; did you mean 'synthesize'?"),
        ("pools.m.tokens_per_sec=3", "pools.m.tokens_per_sec: unknown key; did you mean 'tokens_per_s'?"),
        ("roles.judge.temprature=1", "did you mean 'temperature'?"),
        ("export.where={pas_rate: 1}", "export.where.pas_rate: unknown key; did you mean 'pass_rate'?"),
        (
            "export.where=pass_rate > 0",
            "export.where: wants conditions by column, such as {pass_rate: {above: 0, below",
        ),
        ("export.where.level=[1, 2]", "export.where.level: wants a number, or a range, such as {min: 2, max: 3}"),
        ("export.where.pass_rate=50", "pass_rate: a share in 0 to 1, not 50"),
        ("export.where.level={above: 2, max: 2}", "export.where.level: no number lies there: from 2 to 2"),
        ("export.where.category=formats", "Input should be 'content', 'numerical', 'stylistic', 'format' or"),
        ("export.weights.level={1: 1}", "level: a weight is against others: name two values or more, or give one 0"),
        ("export.weights.category={formt: 1, content: 2}", "Input should be 'content', 'numerical', 'stylistic'"),
        ("synthesize.k=0", "synthesize.k: Input should be greater than 0 (got 0)"),
        ("synthesize.rounds={}", "rounds wants"),
        ("synthesize.checkers=[length, wrods]", "'wrods' is no checker and no family of them; did you mean 'words'?"),
        ("synthesize.checkers=[all]", "'all' is no checker"),
        ("synthesize.checkers=words", "synthesize.checkers: wants none, all, or a list"),
        ("synthesize.rounds={-1: 1}", "rounds wants"),
        ("roles.judge.pool=n", "roles.judge.pool is 'n', which is not defined; there is 'm'"),
        ("pools.m.replicas={min: 3, max: 2}", "min (3) is above max (2)"),
        ("pools.m.engine=vlm", "pools.m"),
        ("pools.spare={engine: simulated}", "no role uses the pool 'spare'"),
        ("name=../evil", "name:"),
        ("synthesize", "is not an override"),
        ("prompts=['s3://me:secret@bucket/x.jsonl']", "must hold no user or password"),
        ("pools.m={engine: openai, model: x, base_url: 'http://me:pw@host/v1'}", "must hold no user or password"),
        *(
            (f"pools.m={{engine: vllm, model: x, args: {{{secret}: abc}}}}", f"{secret} is a secret")
            for secret in ("hf_token", "hub_token", "api_key", "password", "aws_secret_access_key", "token")
        ),
        ("pools.m={engine: vllm, model: x, args: {a: [{token: abc}]}}", "token is a secret (a.0.token)"),
        ("pools.m={engine: openai, model: x, base_url: 'http://host/v1?api-key=abc'}", "(its query has api-key)"),
        ("pools.m={engine: openai, model: x, base_url: 'http://h/v1', api_key_env: sk-abc}", "never the key itself"),
        ("sft={hub_token: abc}", "hub_token is a secret"),
        (f"roles.judge.system=Ask with hf_{'a1' * 20}", "roles.judge.system: what stands there looks like a key"),
        ("flow.progress_s=http://u:hunter2@h", "flow.progress_s"),
        ("name.first=3", "name.first=3: 'name' holds a str ('x'), not a section"),
        ("openai=1", "openai: unknown key"),
        ("sft=3", "sft: Input should be a valid dictionary (got 3)"),
        ("prompts=[3]", "prompts.0: Input should be a valid string (got 3): put quotes around it"),
        ("synthesize=3", "synthesize: wants a section, of `key: value` in lines (got 3)"),
        ("train.workers=many", "train.workers: wants a section"),
        ("pools.m={engine: openai, model: x, base_url: y, timeout: 1}", "pools.m.timeout: unknown key; did you mean"),
        (
            "pools.m={engine: openai, model: x, base_url: y, latency: 1}",
            "pools.m.latency: unknown key; known here: acc",
        ),
        (
            "pools.m={engine: vllm, model: x, latency: 1}",
            "pools.m.latency: unknown key; known here: accelerator_type, a",
        ),
        ("pools.m={engine: simulated, trust_remote: 1}", "pools.m.trust_remote: unknown key; known here: accelerator_"),
        ("roles.judge.pool=n", "the whole: roles.judge.pool is 'n'"),
        ("synthesize.k=[", "not valid YAML"),
    ],
)
def test_faults_are_named_with_the_mend(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, MINIMAL), [override])
    assert message in str(caught.value)


def test_every_fault_has_a_line_of_its_own() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(MINIMAL | {"seed": "x", "prompst": []})
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()] == [
        ["recipe", "seed"],
        ["recipe", "prompst"],
    ]


def test_an_at_sign_in_a_path_is_no_password(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL), run="s3://bucket/me@home").run == "s3://bucket/me@home"


def test_a_recipe_and_what_it_names_may_be_in_a_store() -> None:
    store = fsspec.filesystem("memory")
    own = own_set(judge={"system": "Judge."})
    store.pipe_file("/recipes/mine.yaml", yaml.safe_dump(own).encode())
    pool = {"engine": "vllm", "model": "org/model", "chat_template": "memory://recipes/chat.jinja"}
    store.pipe_file("/recipes/chat.jinja", b"{{ 'stored' }}")
    data = MINIMAL | {"pools": {"m": pool}, "templates": "memory://recipes/mine.yaml"}
    store.pipe_file("/recipes/x.yaml", yaml.safe_dump(data).encode())
    made = load_recipe("memory://recipes/x.yaml")
    assert made.templates.judge.system == "Judge."
    assert isinstance(made.pools["m"], VllmPool)
    assert made.pools["m"].chat_template == "{{ 'stored' }}"
    with pytest.raises(RecipeError, match=r"memory://recipes/none\.jinja: cannot be read"):
        load_recipe("memory://recipes/x.yaml", ["pools.m.chat_template='memory://recipes/none.jinja'"])


@pytest.mark.parametrize(
    ("fields", "workers", "batch"),
    [({}, 1, 8), ({}, 3, 24), ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 5}, 4, 40)],
)
def test_a_global_batch_is_that_of_the_most_workers(fields: dict[str, int], workers: int, batch: int) -> None:
    made = parse_recipe(MINIMAL | {"train": {"workers": {"min": 1, "max": workers}}})
    assert made.global_batch(fields) == batch


def test_the_second_of_two_rounds_is_the_last_of_several() -> None:
    made = parse_recipe(MINIMAL | {"align": {"iterations": 2}})
    assert [made.dpo_in_round(number)["loss_type"] for number in (1, 2)] == [["sigmoid"], ["nca_pair"]]


def test_a_fingerprint_is_of_the_content_and_a_difference_names_each_setting() -> None:
    one: dict[str, Any] = {"a": 1, "b": {"c": [1], "d": None}, "e": 2}
    assert fingerprint(one) == fingerprint(dict(reversed(one.items()))) == "24279665cd1c1386"
    other = {"a": 1, "b": {"c": [2], "d": None}, "e": {"x": 1}, "f": "new"}
    assert difference(one, other) == ["b.c: [1] → [2]", "e: 2 → {'x': 1}", "f: None → 'new'"]
    assert difference(one, one) == []


def test_a_budget_of_thought_for_a_model_without_thoughts_is_refused(tmp_path: Path) -> None:
    pool = "pools.m={engine: openai, model: x, base_url: 'http://host/v1', thinking: null}"
    with pytest.raises(RecipeError, match=r"roles\.judge\.thinking_tokens is given, but pools\.m\.thinking is null"):
        load_recipe(write(tmp_path, MINIMAL), [pool, "roles.judge.thinking_tokens=0"])
    load_recipe(write(tmp_path, MINIMAL), [pool.replace("null", "{end: '[/THINK]'}"), "roles.judge.thinking_tokens=0"])
    with pytest.raises(RecipeError, match=r"pools\.m\.thinking\.end: without a text there"):
        load_recipe(write(tmp_path, MINIMAL), [pool.replace("null", "{end: ' '}")])


def test_overrides_are_laid_over_the_file(tmp_path: Path) -> None:
    made = load_recipe(write(tmp_path, MINIMAL), ["synthesize.k=3", "synthesize.rounds={2: 1}", "export.held_out=0"])
    assert load_recipe(write(tmp_path, MINIMAL), ["roles.judge.system=a=b"]).roles.judge.system == "a=b"
    assert (made.synthesize.k, made.synthesize.rounds, made.export.held_out) == (3, {2: 1.0}, 0)


def test_a_power_of_ten_is_a_number(tmp_path: Path) -> None:
    made = load_recipe(write(tmp_path, MINIMAL), ["sft.learning_rate=5e-4", "dpo.learning_rate=-1E+2", "name=5e"])
    assert (made.sft["learning_rate"], made.dpo["learning_rate"], made.name) == (0.0005, -100.0, "5e")


@pytest.mark.parametrize("text", ["", "- a", "3", "a: [", "\x00", "name: x\n\tb: 1", "!!python/object:os.system {}"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, text))


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(RecipeError, match="no such recipe"):
        load_recipe("nowhere.yaml")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["name", "pools", "roles", "synthesize", "ingest", "export", "flow", "decompose", "prompts"])


@given(st.dictionaries(keys, json_values, max_size=4))
def test_no_value_makes_anything_but_a_recipe_error(sections: dict[str, Any]) -> None:
    with suppress(RecipeError):
        parse_recipe(MINIMAL | sections)


@given(st.lists(st.text(max_size=30), max_size=3))
def test_no_override_makes_anything_but_a_recipe_error(overrides: list[str]) -> None:
    with suppress(RecipeError):
        load_recipe(SHIPPED_FILES[0], overrides)


def test_a_pool_asks_for_the_gpus_that_its_engine_spreads_over() -> None:
    with pytest.raises(RecipeError, match=r"pools\.m: args ask for 8 GPUs .* but gpus is 1: set gpus to 8"):
        parse_recipe(
            {
                "name": "x",
                "pools": {
                    "m": {
                        "engine": "vllm",
                        "model": "org/big",
                        "gpus": 1,
                        "args": {"tensor_parallel_size": 4, "pipeline_parallel_size": 2},
                    }
                },
                "roles": {role: {"pool": "m"} for role in ("decomposer", "composer", "responder", "judge")},
            }
        )


@pytest.mark.parametrize("args", ["data_parallel_size: 2", "data_parallel_backend: ray", "nnodes: 2"])
def test_copies_of_a_model_are_replicas(tmp_path: Path, args: str) -> None:
    pool = f"pools.m={{engine: vllm, model: org/big, gpus: 2, args: {{{args}}}}}"
    with pytest.raises(RecipeError, match=rf"pools\.m: args\.{args.replace(':', ' is')}: .*set replicas"):
        load_recipe(write(tmp_path, MINIMAL), [pool])
    assert load_recipe(write(tmp_path, MINIMAL), [pool.replace(args, "data_parallel_size: 1")])


@pytest.mark.parametrize("key", ["prompts", "run"])
@pytest.mark.parametrize(
    "address", ["s3://me:hunter2@bucket/x", "s3://me:hun/ter2@bucket/x", "https://host/x.jsonl?X-Amz-Signature=hunter2"]
)
def test_options_are_validated_as_the_recipe_is_and_a_password_is_never_printed(
    tmp_path: Path, key: str, address: str
) -> None:
    options: dict[str, Any] = {key: [address] if key == "prompts" else address}
    with pytest.raises(RecipeError, match=r"must hold no (user or password|secret)") as caught:
        load_recipe(write(tmp_path, MINIMAL), **options)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("section", ["policy", "composer"])
def test_a_models_address_holds_no_password(tmp_path: Path, section: str) -> None:
    with pytest.raises(RecipeError, match="must hold no user or password"):
        load_recipe(write(tmp_path, MINIMAL), [section + "={model: 's3://me:hunter2@bucket/m'}"])


def test_a_relative_path_means_a_file_beside_the_recipe_and_in_an_option_one_in_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (beside := tmp_path / "recipes").mkdir()
    (here := tmp_path / "here").mkdir()
    for folder in (beside, here):
        (folder / "a.jsonl").write_text("{}")
    (beside / "chat.jinja").write_text("")
    monkeypatch.chdir(here)
    data = MINIMAL | {"prompts": ["a.jsonl", "*.jsonl", "org/name", "a\0.jsonl"], "policy": {"model": "org/model"}}
    data["composer"] = {"model": "org/model", "prompts": ["a.jsonl"]}
    data["policy"]["chat_template"] = "chat.jinja"
    recipe = load_recipe(write(beside, data))
    assert recipe.prompts == (f"{beside}/a.jsonl", f"{beside}/*.jsonl", "org/name", "a\0.jsonl")
    assert recipe.composer
    assert recipe.composer.prompts == (f"{beside}/a.jsonl",)
    assert recipe.policy
    assert recipe.policy.chat_template == f"{beside}/chat.jinja"
    assert load_recipe(write(beside, data), prompts=["a.jsonl"]).prompts == (f"{here}/a.jsonl",)
    measured = {"benchmarks": {"ifeval": "a.jsonl", "arc_easy": None}}
    section = load_recipe(write(beside, data | {"evaluate": measured}), ["evaluate.benchmarks.gsm8k=a.jsonl"]).evaluate
    assert section
    assert section.benchmarks == {"ifeval": f"{beside}/a.jsonl", "arc_easy": None, "gsm8k": f"{here}/a.jsonl"}
    sets = load_recipe(write(beside, data | {"sets": {"sft": ["a.jsonl"]}}), ["sets.dpo.1=[a.jsonl]"]).sets
    assert sets
    assert (sets.sft, sets.dpo) == ((f"{beside}/a.jsonl",), {1: (f"{here}/a.jsonl",)})
    responses = load_recipe(write(beside, data | {"composer": None}), ["responses={run: ../here}"]).responses
    assert responses
    assert responses.run == str(here)


def test_a_pools_chat_template_is_read_from_beside_the_recipe_or_from_this_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (beside := tmp_path / "recipes").mkdir()
    (here := tmp_path / "here").mkdir()
    for folder in (beside, here):
        (folder / "chat.jinja").write_text(f"{{{{ '{folder.name}' }}}}\n")
    monkeypatch.chdir(here)
    pool = {"engine": "vllm", "model": "org/model", "chat_template": "chat.jinja"}
    file = write(beside, MINIMAL | {"pools": {"m": pool}})

    def template(*overrides: str) -> str | None:
        made = load_recipe(file, overrides).pools["m"]
        assert isinstance(made, VllmPool)
        return made.chat_template

    assert template() == "{{ 'recipes' }}\n"
    assert template("pools.m.chat_template=chat.jinja") == "{{ 'here' }}\n"
    assert template("pools.m.chat_template='{{ \"http://a\" }}'") == '{{ "http://a" }}'
    with pytest.raises(RecipeError, match=r"pools\.m\.chat_template: there is no such file, .*got 'other\.jinja'"):
        template("pools.m.chat_template=other.jinja")
    with pytest.raises(RecipeError, match="tokenize says how the template is applied"):
        load_recipe(file, ["pools.m.template_args={tokenize: false}"])


def own_set(**parts: Any) -> dict[str, Any]:
    return load_shipped("small").model_dump(mode="json") | parts


def test_templates_are_a_shipped_set_or_a_file_beside_the_recipe(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL)).templates == load_shipped("large")
    assert load_recipe("demo").templates == load_shipped("small")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own_set(judge={"system": "Judge."})))
    made = load_recipe(write(tmp_path, MINIMAL | {"templates": "mine.yaml"}))
    assert made.templates.judge.system == "Judge."
    assert made.templates.decomposer == load_shipped("small").decomposer
    assert parse_recipe(made.model_dump(mode="json")) == made


EXAMPLE = {"query": "A poem, in Greek", "constraints": []}
ADDED = {"category": "format", "query": "A poem", "composed": "A poem in verse", "question": "Is it verse?"}
FOUND = {"constraint": "in Greek", "simplified_query": "A poem", "question": "Is it Greek?", "category": "linguistic"}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"jugde": {}}, "templates.jugde: unknown key; did you mean 'judge'?"),
        (
            {"composer": {"writes": "addition", "examples": [ADDED | {"composed": "In Greek, write a poem"}]}},
            "writes is addition, but 'In Greek, write a poem' does not begin with its query: put the constraint behind",
        ),
        (
            {"decomposer": {"examples": [EXAMPLE | {"constraints": [FOUND | {"category": "lingual"}]}]}},
            "templates.decomposer.examples.0.constraints.0.category: Input should be 'content', 'numerical', "
            "'stylistic', 'format' or 'linguistic' (got 'lingual')",
        ),
        (
            {"decomposer": {"examples": [EXAMPLE | {"constraints": [FOUND | {"simplified": "A poem"}]}]}},
            "templates.decomposer.examples.0.constraints.0.simplified: unknown key; did you mean 'simplified_query'?",
        ),
        (
            {"decomposer": {"examples": [EXAMPLE | {"constraints": '[{"constraint": "in Greek"}]'}]}},
            "templates.decomposer.examples.0.constraints: Input should be a valid tuple",
        ),
        (
            {"decomposer": {"examples": [EXAMPLE | {"constraints": [FOUND | {"simplified_query": EXAMPLE["query"]}]}]}},
            "templates.decomposer.examples.0: the simplified_query of 'in Greek' is the query itself",
        ),
        (
            {"categories": {"content": "c", "numerical": "n", "stylistic": "s", "format": "f"}},
            "templates.categories.linguistic is missing",
        ),
    ],
)
def test_a_fault_in_a_set_of_templates_is_said_in_one_sentence(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own_set(**parts)))
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, MINIMAL | {"templates": "mine.yaml"}))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_templates_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"templates: there is no such file, and the sets that ship are 'large', 's"):
        load_recipe(write(tmp_path, MINIMAL | {"templates": "mine.yaml"}))
    (tmp_path / "mine.yaml").write_text("judge: [")
    with pytest.raises(RecipeError, match=r"mine\.yaml: not valid YAML"):
        load_recipe(write(tmp_path, MINIMAL | {"templates": "mine.yaml"}))


def test_a_roles_own_system_prompt_comes_before_the_sets_and_null_is_none(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL)
    assert load_recipe(file).templates_of_roles == load_shipped("large")
    made = load_recipe(file, ["roles.judge.system=Judge.", "roles.responder.system=null"])
    for again in (made, parse_recipe(made.model_dump(mode="json")), parse_recipe(made.model_dump())):
        told = again.templates_of_roles
        assert (told.judge.system, told.responder.system) == ("Judge.", None)
        assert told.composer == load_shipped("large").composer


def test_a_shipped_recipe_is_found_by_name_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe("demo").prompts == (str(SHIPPED / "prompts/demo.jsonl"),)
    with pytest.raises(
        RecipeError, match=r"nothing: there is no such recipe; those that ship .* are base_model, checked, demo"
    ):
        load_recipe("nothing")
    (tmp_path / "demo").mkdir()  # such as the folder of its run
    assert load_recipe("demo").name == "demo"
    (tmp_path / "demo").rmdir()
    (tmp_path / "demo").write_text("name: mine")
    with pytest.raises(RecipeError, match="demo: pools is missing"):  # a file that is there comes first
        load_recipe("demo")


def test_options_stand_in_place_of_what_the_recipe_says(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["run=/here"], prompts=["/a.jsonl"], run="/there")
    assert (recipe.prompts, recipe.run_folder) == (("/a.jsonl",), "/there")


def test_a_fingerprint_is_of_the_settings_and_not_of_their_order() -> None:
    settings = {"pools": {"a": 1, "b": 2}, "k": 5}
    assert fingerprint(settings) == fingerprint({"k": 5, "pools": {"b": 2, "a": 1}}) == "dd24d86125141f81"
    other = {"pools": {"a": 1, "b": 3}, "l": 5}
    assert fingerprint(other) != fingerprint(settings)
    assert difference(settings, other) == ["k: 5 → None", "l: None → 5", "pools.b: 2 → 3"]


def test_what_is_measured_after_training_must_be_served_here(tmp_path: Path) -> None:
    server = {"engine": "openai", "model": "m", "base_url": "http://x/v1"}
    data = MINIMAL | {
        "policy": {"model": "org/model"},
        "align": {"iterations": 0},
        "pools": dict.fromkeys(MINIMAL["pools"], server),
    }
    assert load_recipe(write(tmp_path, data)).policy
    with pytest.raises(RecipeError, match=r"policy\.model is trained by this run and then served by pool"):
        load_recipe(write(tmp_path, data | {"evaluate": {"benchmarks": {"ifeval": None}}}))


def test_a_setting_that_a_later_version_adds_is_no_change_where_it_has_its_default() -> None:
    class Inner(Section):
        old: int = 1
        new: int = 2

    class Outer(Section):
        kept: int = 0
        inner: Inner = Inner()
        added: dict[int, float] = Field({1: 1.0})

    before = {"kept": 0, "inner": {"old": 1}}
    assert difference(before, in_json(dumped(Outer()))) == []
    assert difference(before, in_json(dumped(Outer(added={2: 1.0})))) == ["added: None → {'2': 1.0}"]
    assert difference(before, in_json(dumped(Outer(inner=Inner(new=3))))) == ["inner.new: None → 3"]
    assert difference(before, in_json(dumped(Outer(kept=1)))) == ["kept: 0 → 1"]
    assert difference(before | {"gone": 5}, in_json(dumped(Outer()))) == ["gone: 5 → None"]  # which a newer one made


def test_a_file_that_is_not_there_is_missed_where_the_recipe_meant_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a run whose prompts were moved means the same ones from anywhere."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(MINIMAL | {"prompts": ["data/p.jsonl", "org/name"]}))
    (cwd := tmp_path / "cwd").mkdir()
    monkeypatch.chdir(cwd)
    assert load_recipe(tmp_path / "recipe.yaml").prompts == (f"{tmp_path}/data/p.jsonl", "org/name")
    assert load_recipe(tmp_path / "recipe.yaml", ["prompts=[p.jsonl.gz]"]).prompts == (f"{cwd}/p.jsonl.gz",)


@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("synthesize: {k: 2}\nexport: {}\nsynthesize: {goal: sft}\n", "'synthesize' is given twice, first in line 1"),
        ("synthesize:\n  k: 2\n  goal: sft\n  k: 3\n", "'k' is given twice, first in line 2"),
        ("synthesize: {rounds: {1: 1, 1: 2}}\n", "'1' is given twice"),
        ("pools:\n  m: {engine: simulated}\n  m: {engine: vllm}\n", "'m' is given twice"),
    ],
)
def test_a_key_that_is_given_twice_is_refused(tmp_path: Path, text: str, twice: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text))
    assert twice in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_setting_may_be_laid_over_what_an_anchor_has(tmp_path: Path) -> None:
    text = yaml.safe_dump(MINIMAL) + "sft: &shared {num_train_epochs: 2, packing: no}\n"
    made = load_recipe(write(tmp_path, text + "dpo: {<<: *shared, num_train_epochs: 1}\n"))
    assert (made.sft["num_train_epochs"], made.dpo["num_train_epochs"], made.dpo["packing"]) == (2, 1, False)


@pytest.mark.parametrize(
    ("override", "key", "meant"),
    [
        ("synthesize.labels=[Yes, No]", "synthesize.labels", ["Yes", "No"]),
        ("synthesize.labels=[true, off]", "synthesize.labels", ["true", "off"]),
        ("roles.judge.stop=[No]", "roles.judge.stop", ["No"]),
        ("roles.judge.system=no", "roles.judge.system", "no"),
        ("pools.m.labels={spot: yes}", "pools.m.labels", {"spot": "yes"}),
        ("synthesize.standing=yes", "synthesize.standing", True),
        ("synthesize.ask_all=Off", "synthesize.ask_all", False),
        ("sft={packing: no, gradient_checkpointing: True}", "sft", {"packing": False, "gradient_checkpointing": True}),
        ("sft={save_strategy: no}", "sft", {"save_strategy": "no"}),
        ("composer={model: x, lora: {use_dora: on, a: [no]}}", "composer.lora", {"use_dora": True, "a": [False]}),
        ("name=2026-05-01", "name", "2026-05-01"),
        ("synthesize=", "synthesize.k", 5),
        ("sft=", "sft", {"num_train_epochs": 3}),
        ("export={files: , caps: }", "export.caps", {}),
        ("export.where={level: 2, category: format}", "export.where.category", ["format"]),
        ("export.where={level: 2}", "export.where.level", {"min": 2.0, "max": 2.0, "above": None, "below": None}),
        ("export.where={pass_rate: , samples: }", "export.where.pass_rate", None),
        ("flow=", "flow.rows_per_block", 16),
        ("pools.m.replicas=", "pools.m.replicas", {"min": 1, "max": 1}),
        ("composer=", "composer", None),
        ("templates=", "templates.composer.writes", "query"),
        ("prompts=", "prompts", []),
        ("pools.m.replicas=4", "pools.m.replicas", {"min": 4, "max": 4}),
        ("train.workers=2", "train.workers", {"min": 2, "max": 2}),
        ("prompts=s3://bucket/one.jsonl", "prompts", ["s3://bucket/one.jsonl"]),
        ("composer={model: x, prompts: org/set}", "composer.prompts", ["org/set"]),
        ("export.files=jsonl", "export.files", ["jsonl"]),
        ("roles.judge.stop=END", "roles.judge.stop", ["END"]),
    ],
)  # fmt: skip
def test_what_is_meant_is_taken(tmp_path: Path, override: str, key: str, meant: Any) -> None:
    found: Any = yaml.safe_load(
        yaml.safe_dump(load_recipe(write(tmp_path, MINIMAL), [override]).model_dump(mode="json"))
    )
    for name in key.split("."):
        found = found[name]
    if isinstance(meant, dict):
        found = {name: found[name] for name in meant}
    assert found == meant


def test_one_path_is_a_list_of_it_and_means_a_file_beside_the_recipe(tmp_path: Path) -> None:
    files = ["data [v2].jsonl", "sets/sft.jsonl", "sets/turn1.json"]
    (tmp_path / "sets").mkdir()
    for file in files:
        (tmp_path / file).touch()
    prompts, sft, turn = (str(tmp_path / file) for file in files)
    sets = {"sft": files[1], "dpo": {1: files[2]}}
    made = load_recipe(write(tmp_path, MINIMAL | {"prompts": files[0], "policy": {"model": "x"}, "sets": sets}))
    assert made.prompts == (prompts,)
    assert made.sets
    assert (made.sets.sft, made.sets.dpo) == ((sft,), {1: (turn,)})


@pytest.mark.parametrize("options", [{"prompts": [""]}, {"prompts": ["a.jsonl", " "]}, {"run": ""}])
def test_an_empty_address_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="an address is empty: is a variable of the shell not set"):
        load_recipe(write(tmp_path, MINIMAL), **options)


def test_an_encoding_is_one_that_python_knows(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, MINIMAL), ["ingest.encoding=cp1252"]).ingest.encoding == "cp1252"
    for name in ("klingon", "zlib"):
        with pytest.raises(RecipeError, match=r"ingest\.encoding: Python knows no such encoding"):
            load_recipe(write(tmp_path, MINIMAL), [f"ingest.encoding={name}"])


@pytest.mark.parametrize(
    ("against", "fault"),
    [
        ({"mine": None}, "against.mine names no files"),
        ({"ifeval": "a.jsonl"}, "against.ifeval names files, but an index of ifeval ships"),
        ({"mine": {"files": "a.jsonl", "share": 0}}, "greater than 0"),
    ],
)
def test_a_benchmark_to_keep_out_ships_or_has_files(tmp_path: Path, against: Any, fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        load_recipe(write(tmp_path, MINIMAL | {"decontaminate": {"against": against}}))


def test_files_of_benchmarks_lie_beside_the_recipe(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text("{}")
    against = {"one": "a.jsonl", "two": {"files": ["b.jsonl", "org/name"], "share": 0.6}, "ifeval": {"share": 0.5}}
    made = load_recipe(write(tmp_path, MINIMAL | {"decontaminate": {"against": against}})).decontaminate
    assert made.against["one"].files == (str(tmp_path / "a.jsonl"),)
    assert made.against["two"].files == (str(tmp_path / "b.jsonl"), "org/name")
    assert made.shipped == ("ifeval", "ifbench", "followbench", "gsm8k")
    assert load_recipe(
        write(tmp_path, MINIMAL | {"decontaminate": {"benchmarks": ["gsm8k"]}})
    ).decontaminate.shipped == ("gsm8k",)
