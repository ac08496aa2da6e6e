"""A random model and an adapter, made on the spot: such a machine may have no network."""

from pathlib import Path
from typing import Any

from tests.gpu_check.part import Failed, Figures, Here
from ultraif_ray.engine.models import resolve_model

ROOT = Path(__file__).parents[2]

LABELS = ("Yes", "No")
"""Answers of one token."""

SPREAD = 3.0
"""Standard deviation of the logits. Those of a model as it is initialised are nearly alike: a wrong one would pass."""

END = "<|end|>"


def make(here: Here) -> Figures:
    """Write the model, where none was given, and an adapter for it."""
    if not here.model:
        _write_model(Path(here.asked), gpu=here.gpus > 0)
    weights = _write_adapter(here)
    return {"model": here.model or "a random Llama", "weights": weights}


def _write_model(folder: Path, gpu: bool) -> None:
    """A Llama with the shapes of Llama 3.2 1B on a GPU, and tiny ones without. Its answers have no end."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer()
    if any(len(tokenizer.encode(label, add_special_tokens=False)) != 1 for label in LABELS):
        raise Failed(f"the tokenizer that was made has no tokens of their own for {LABELS}")
    tokenizer.save_pretrained(folder)
    hidden, mlp, layers, heads, keys = (2048, 8192, 16, 32, 8) if gpu else (128, 256, 2, 4, 2)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=keys, max_position_embeddings=4096, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if gpu else "cpu"):
        model = LlamaForCausalLM(config)
        model.lm_head.weight.data.normal_(std=SPREAD / hidden**0.5)
        model.lm_head.weight.data[tokenizer.eos_token_id] = 0  # a logit that hardly any draw falls on
    model.to(torch.bfloat16 if gpu else torch.float32).save_pretrained(folder)


def _tokenizer() -> Any:
    """Byte-pair encoding of this repository's own pages, with the chat template that ships."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))]
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([*pages, *(f"{label}\n" * 1000 for label in LABELS)], trainer)
    template = (ROOT / "ultraif_ray/recipes/plain_chat.jinja").read_text(encoding="utf-8")
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END, chat_template=template)


def _write_adapter(here: Here) -> int:
    """A random LoRA adapter, strong enough to change answers; how many weights the model has."""
    import torch
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    place = resolve_model(here.asked)
    config = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules=["q_proj", "v_proj"], base_model_name_or_path=place)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place))
        weights = int(model.num_parameters())
        adapted = get_peft_model(model, config)
    torch.manual_seed(1)
    shapes = {name: weight.shape for name, weight in get_peft_model_state_dict(adapted).items()}
    Path(here.adapter).mkdir()
    config.save_pretrained(here.adapter)
    # Of this size, what the adapter adds is about as large as what it is added to.
    random = {name: torch.randn(shape) * (shape[-1] ** -0.5) for name, shape in shapes.items()}
    save_file(random, f"{here.adapter}/adapter_model.safetensors")
    return weights
