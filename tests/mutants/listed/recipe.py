"""Mutants of `ultraif_ray/recipe.py` and the recipes that ship."""

from tests.mutants.mutant import Mutant

RECIPE, SETTINGS = "tests/test_recipe.py", "tests/train/test_settings.py"
FSDP = "tests/train/test_fsdp.py"

MUTANTS = (
    Mutant(
        "a shipped recipe misspells how it shards",
        "README.md: the table of recipes",
        "ultraif_ray/recipes/strong_to_weak.yaml",
        "    fsdp: true\n",
        "    fsdp: full_shrad\n",
        (f"{SETTINGS}::test_what_every_shipped_recipe_trains_is_checked_but_for_models_of_the_hub",),
    ),
    Mutant(
        "a shipped recipe misspells a setting of FSDP",
        "README.md: the table of recipes",
        "ultraif_ray/recipes/strong_to_weak.yaml",
        "    fsdp: true\n",
        "    fsdp: true\n    fsdp_config: {fsdp_verzion: 2}\n",
        (f"{SETTINGS}::test_what_every_shipped_recipe_trains_is_checked_but_for_models_of_the_hub",),
    ),
    Mutant(
        "a shipped recipe wraps a layer that its model does not have",
        "README.md: the table of recipes",
        "ultraif_ray/recipes/strong_to_weak.yaml",
        "    fsdp: true\n",
        "    fsdp: true\n    fsdp_config: {transformer_layer_cls_to_wrap: [LamaDecoderLayer]}\n",
        (f"{SETTINGS}::test_what_every_shipped_recipe_trains_is_checked_but_for_models_of_the_hub",),
    ),
    Mutant(
        "a shipped recipe misspells its composer's LoRA",
        "README.md: the table of recipes",
        "ultraif_ray/recipes/lora_24gb.yaml",
        "lora: {r: 32, lora_alpha: 64}\n  sft:",
        "lora: {r: 32, lora_alhpa: 64}\n  sft:",
        (f"{SETTINGS}::test_what_every_shipped_recipe_trains_is_checked_but_for_models_of_the_hub",),
    ),
    Mutant(
        "a shipped recipe adapts a module that its model does not have",
        "README.md: the table of recipes",
        "ultraif_ray/recipes/demo.yaml",
        "target_modules: [o_proj]",
        "target_modules: [o_porj]",
        (f"{SETTINGS}::test_what_every_shipped_recipe_trains_is_checked_but_for_models_of_the_hub",),
    ),
    Mutant(
        "a shipped recipe wants more GPUs than its head says",
        "ultraif_ray/recipes/strong_to_weak.yaml: six are the fewest",
        "ultraif_ray/recipes/strong_to_weak.yaml",
        "workers: {min: 4, max: 8}",
        "workers: {min: 7, max: 8}",
        (f"{RECIPE}::test_every_shipped_recipe_fits_the_gpus_that_its_head_names_and_no_fewer",),
    ),
    Mutant(
        "a shipped recipe's head asks for more GPUs than it needs",
        "ultraif_ray/recipes/self_alignment.yaml: four work",
        "ultraif_ray/recipes/self_alignment.yaml",
        "workers: {min: 4, max: 8}    #",
        "workers: {min: 5, max: 8}    #",
        (f"{RECIPE}::test_every_shipped_recipe_fits_the_gpus_that_its_head_names_and_no_fewer",),
    ),
    Mutant(
        "a laptop's recipe wants more than two cores",
        "ultraif_ray/recipes/demo.yaml: two CPU cores",
        "ultraif_ray/recipes/demo.yaml",
        "    cpus: 1\n",
        "    cpus: 3\n",
        (f"{RECIPE}::test_every_shipped_recipe_fits_the_gpus_that_its_head_names_and_no_fewer",),
    ),
    Mutant(
        "a layer that a model does not have is found by a worker",
        "ultraif_ray/train/settings.py: refuse modules to adapt and layers to wrap that the model does not have",
        "ultraif_ray/steps/train.py",
        "        settings.check_modules(self.model_key, self.model(recipe), self.fields_key, self.fields(recipe))\n",
        "",
        (f"{FSDP}::test_what_would_be_passed_over_is_refused",),
    ),
    Mutant(
        "unknown keys are passed over",
        "README.md: a key that does not exist is refused, with the nearest one that does",
        "ultraif_ray/recipe.py",
        'extra="forbid", frozen=True',
        'extra="ignore", frozen=True',
        (f"{RECIPE}::test_faults_are_named_with_the_mend",),
    ),
    Mutant(
        "answers are drawn with another temperature",
        "ultraif_ray/recipe.py: defaults are the paper's",
        "ultraif_ray/recipe.py",
        '"responder": {"temperature": 1.0,',
        '"responder": {"temperature": 0.7,',
        (f"{RECIPE}::test_the_papers_sampling_is_the_default",),
    ),
    Mutant(
        "a fingerprint depends on the order of keys",
        "ultraif_ray/recipe.py: a short hash of settings",
        "ultraif_ray/recipe.py",
        "json.dumps(settings, sort_keys=True)",
        "json.dumps(settings)",
        (f"{RECIPE}::test_a_fingerprint_is_of_the_settings_and_not_of_their_order",),
    ),
    Mutant(
        "a password stands in a manifest",
        "ultraif_ray/recipe.py: kept in manifests, so without credentials",
        "ultraif_ray/redact.py",
        "    if _LOGIN.search(address):",
        "    if _LOGIN.match(address):",
        (f"{RECIPE}::test_faults_are_named_with_the_mend",),
    ),
)
