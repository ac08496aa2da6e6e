"""UltraIF (arXiv 2502.04153) on Ray: wild prompts in, judged instruction-following data and a better model out.

`load_recipe`, `plan`, `run`, `Run`, `evaluate_model`, `score_answers` and `stats` are the public API; see
`ultraif_ray.api`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ultraif_ray.api import Run, evaluate_model, load_recipe, plan, run, score_answers, stats

__version__ = "0.1.0"
__all__ = ["Run", "evaluate_model", "load_recipe", "plan", "run", "score_answers", "stats"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first used: `import ultraif_ray` itself must cost nothing."""
    if name in __all__:
        from ultraif_ray import api

        return getattr(api, name)
    raise AttributeError(f"module 'ultraif_ray' has no attribute '{name}'")
