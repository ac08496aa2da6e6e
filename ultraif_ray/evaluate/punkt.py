"""NLTK's trained Punkt, which splits texts into sentences for lm-eval's checkers of IFEval, found offline.

lm-eval would download it when its checkers are imported. The wheel of llama-index-core carries it; that package itself
is never imported.
"""

import importlib.util
import os
from pathlib import Path

from ultraif_ray.errors import RecipeError

_NEEDED = "tokenizers/punkt_tab"
_SHIPPED = Path("core/_static/nltk_cache")
"""Where llama-index-core 0.14 keeps it, inside the package `llama_index`."""


def prepare_checkers() -> None:
    """Let NLTK find Punkt, and seed langdetect, which else draws: the same answer always has the same verdict. Call it
    before `lm_eval.tasks.ifeval` is imported.

    Raises:
        RecipeError: a package is missing, or there is no Punkt, with how to get it.
    """
    check_extra()
    import langdetect
    import nltk

    langdetect.DetectorFactory.seed = 0
    places = [os.environ.get("NLTK_DATA", ""), *map(str, _shipped())]
    # NLTK reads the variable when it is imported, which may have been before.
    nltk.data.path[:0] = [place for place in places if place and place not in nltk.data.path]
    try:
        nltk.data.find(_NEEDED)
    except LookupError:
        raise RecipeError(
            "NLTK's trained Punkt is not here, and nothing is downloaded: run `make install`, or `pip install "
            f"--no-deps llama-index-core==0.14.25`, or set NLTK_DATA to a folder that holds {_NEEDED}"
        ) from None
    os.environ["NLTK_DATA"] = os.pathsep.join(place for place in places if place)


def check_extra() -> None:
    """Refuse benchmarks where the extra `eval` is not installed.

    Raises:
        RecipeError: naming the package that is missing.
    """
    for package in ("lm_eval", "langdetect", "nltk"):
        if importlib.util.find_spec(package) is None:
            raise RecipeError(f"benchmarks need the extra `eval`, and {package} is missing: run `make install`")


def _shipped() -> list[Path]:
    spec = importlib.util.find_spec("llama_index")
    return [Path(place) / _SHIPPED for place in (spec and spec.submodule_search_locations) or ()]
