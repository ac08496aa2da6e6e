"""What the fingerprint of a step with engines covers of what its roles are told."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from ultraif_ray.recipe import fingerprint, load_recipe
from ultraif_ray.records import ROLES, Role
from ultraif_ray.steps.engines import code_of, journey_settings
from ultraif_ray.steps.serving import in_round
from ultraif_ray.templates import load_shipped


def settings(folder: Path, *overrides: str, roles: tuple[Role, ...] = ROLES, dpo_round: int = 0, **changed: Any) -> str:
    """The fingerprint with a recipe, its chat template and its templates in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / "chat.jinja").write_text(changed.get("chat", "{{ messages }}"))
    (folder / "set.yaml").write_text(
        yaml.safe_dump(load_shipped("small").model_dump(mode="json") | changed.get("set", {}))
    )
    data = {
        "name": "x",
        "pools": {"m": {"engine": "vllm", "model": "org/model", "chat_template": "chat.jinja"}},
        "roles": {role: {"pool": "m"} for role in ROLES},
        "templates": "set.yaml",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    recipe = in_round(load_recipe(folder / "recipe.yaml", overrides), dpo_round)
    return fingerprint(journey_settings(recipe.model_copy(update={"seed": 0}), roles))


def test_the_text_of_a_file_counts_and_not_where_it_is(tmp_path: Path) -> None:
    first = settings(tmp_path / "a")
    assert settings(tmp_path / "b") == first
    assert settings(tmp_path / "a", chat="{{ messages[0] }}") != first
    assert settings(tmp_path / "a", set={"judge": {"system": "Judge."}}) != first
    assert settings(tmp_path / "a") == first


def test_how_a_role_is_asked_counts(tmp_path: Path) -> None:
    first = settings(tmp_path)
    changes = ("roles.judge.system=null", "roles.responder.stop=[END]", "roles.composer.min_p=0.1")
    different = [settings(tmp_path, change) for change in (*changes, "pools.m.template_args={enable_thinking: false}")]
    assert len({first, *different}) == 5


def test_what_another_role_is_told_does_not_count(tmp_path: Path) -> None:
    of_decomposer = settings(tmp_path, roles=("decomposer",))
    assert settings(tmp_path, roles=("decomposer",), set={"judge": {"system": "Judge."}}) == of_decomposer
    assert settings(tmp_path, roles=("decomposer",), set={"decomposer": {"system": "Find."}}) != of_decomposer


def test_the_system_prompt_of_a_round_counts_in_rounds(tmp_path: Path) -> None:
    assert settings(tmp_path, "align.system=Try.") == settings(tmp_path)
    assert settings(tmp_path, "align.system=Try.", dpo_round=1) != settings(tmp_path, dpo_round=1)


@pytest.mark.parametrize("role", ["decomposer", "composer"])
def test_the_checkers_that_are_on_count(tmp_path: Path, role: Role) -> None:
    on = [settings(tmp_path, f"synthesize.checkers={what}", roles=(role,)) for what in ("none", "all", "[length]")]
    assert len(set(on)) == 3
    assert settings(tmp_path, "synthesize.k=3", roles=(role,)) == on[0]


def test_rows_of_two_sets_of_rules_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings(tmp_path)
    monkeypatch.setattr("ultraif_ray.steps.engines.RULES", 99)
    assert settings(tmp_path) != before


def test_of_code_what_runs_counts_and_no_comment() -> None:
    code = '''"""A module."""
X = """text"""  # a comment

def f(a):
    """What it does."""
    # why
    return f"{a} # {X}"

    "stands alone"
'''
    other = '''"""Another."""
X = """text"""
def f(a):
    return f"{a} # {X}"'''
    assert code_of(code) == code_of(other)
    assert code_of(code) != code_of(code.replace("# {X}", "#{X}"))
    assert code_of(code) != code_of(code.replace("text", "texts"))
