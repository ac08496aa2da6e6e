"""The order of rows, the example that only fills up, and the tokens that examples come with."""

import json
import math
from collections import Counter
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray.train
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from safetensors.torch import load_file
from torch.utils.data import BatchSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, TrainerCallback, TrainerControl
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from tests.train.data import example, job_for, write_tokenised
from ultraif_ray.train import checkpointing
from ultraif_ray.train.checkpointing import CheckpointCallback, cast, moments, save_whole, upload_trained
from ultraif_ray.train.job import TOKENS
from ultraif_ray.train.order import FILLER, StepSampler
from ultraif_ray.train.settings import lora_config, trl_config
from ultraif_ray.train.worker import make_trainer


def steps_of_all_workers(rows: int, global_batch: int, per_worker: int, workers: int, epoch: int) -> list[list[int]]:
    """What each step takes, over all workers, as accelerate deals it out."""
    accumulation = math.ceil(global_batch / (per_worker * workers))
    slots = accumulation * per_worker * workers
    dealt = []
    for worker in range(workers):
        sampler = StepSampler(rows, global_batch, slots, rows, 3, lambda: epoch)
        batches = BatchSampler(sampler, per_worker, drop_last=False)
        dealt.append(list(BatchSamplerShard(batches, num_processes=workers, process_index=worker)))
    assert len({len(batches) for batches in dealt}) == 1
    steps = math.ceil(rows / global_batch)
    assert len(dealt[0]) == steps * accumulation
    return [
        sorted(
            row
            for batches in dealt
            for batch in batches[step * accumulation : (step + 1) * accumulation]
            for row in batch
            if row != rows
        )
        for step in range(steps)
    ]


@settings(deadline=None)
@given(
    rows=st.integers(1, 90),
    global_batch=st.integers(1, 24),
    per_worker=st.integers(1, 5),
    workers=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_every_row_once_an_epoch_and_the_same_rows_in_a_step_for_any_number_of_workers(
    rows: int, global_batch: int, per_worker: int, workers: int, epoch: int
) -> None:
    dealt = steps_of_all_workers(rows, global_batch, per_worker, workers, epoch)
    assert sorted(row for step in dealt for row in step) == list(range(rows))
    assert all(len(step) == global_batch for step in dealt[:-1])
    assert dealt == steps_of_all_workers(rows, global_batch, 1, 1, epoch)


def test_epochs_differ_in_their_order() -> None:
    assert steps_of_all_workers(40, 8, 2, 2, 0) != steps_of_all_workers(40, 8, 2, 2, 1)


def trainer_for(kind: Literal["sft", "dpo"], tiny: str, tmp_path: Path, rows: int = 5, **job: Any) -> Any:
    made = job_for(kind, tiny, tmp_path / f"{kind}.parquet", **job)
    write_tokenised(made, [example(n, kind) for n in range(rows)])
    return make_trainer(made, str(tmp_path / "scratch"), 1, fresh=True)


def chat(number: int, *turns: str) -> dict[str, Any]:
    """An example's prompt: a system message, and user and assistant by turns."""
    roles = ("user", "assistant")
    said = [{"role": roles[turn % 2], "content": text} for turn, text in enumerate(turns)]
    return {"id": number, "prompt": [{"role": "system", "content": "Be brief."}, *said]}


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


TEMPLATES = {
    "its own": "",
    "the prompt alone ends otherwise": "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant Thinking: none.{% endif %}",
    "answers merge with prompts": "{% for m in messages %}{{ m['content'] }}{% endfor %}",
    "ends of sequence": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}",
}


KINDS: dict[str, tuple[Literal["sft", "dpo"], dict[str, Any]]] = {
    "sft": ("sft", {}),
    "sft, prompts too": ("sft", {"completion_only_loss": False}),
    "sft, another end": ("sft", {"eos_token": "<|endoftext|>"}),
    "dpo": ("dpo", {}),
}


@pytest.mark.parametrize(
    ("of", "template"),
    [
        *(("sft", template) for template in TEMPLATES),
        *(("dpo", template) for template in TEMPLATES),
        ("sft, prompts too", "its own"),
        ("sft, another end", "ends of sequence"),
    ],
)
def test_examples_have_the_tokens_that_trl_would_give_them(tiny: str, tmp_path: Path, of: str, template: str) -> None:
    kind, fields = KINDS[of]
    chats = [chat(7, "What follows one?"), chat(8, "hi", "Hello.", "Grüezi 🙂,\n\n  und"), chat(9, "  ")]
    answers = ["Two, I think.", " two\n\n 🙂🙂 lines ", "un"]
    names = ("chosen", "rejected") if kind == "dpo" else ("completion",)
    examples = [
        one | {name: said(text) for name, text in zip(names, (answers[n], answers[n - 1]), strict=False)}
        for n, one in enumerate(chats)
    ]
    job = job_for(kind, tiny, tmp_path / "a.parquet", fields=fields, chat_template=TEMPLATES[template])
    assert write_tokenised(job, examples) == {"accepted": 3}
    ours = make_trainer(job, str(tmp_path / "ours"), 1, fresh=True).train_dataset
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = TEMPLATES[template] or tokenizer.chat_template
    args = trl_config(kind, {"use_cpu": True, "bf16": False, "report_to": "none", **fields}, str(tmp_path / "trl"))
    trl = (DPOTrainer if kind == "dpo" else SFTTrainer)(
        AutoModelForCausalLM.from_pretrained(tiny),
        args=args,
        train_dataset=Dataset.from_list(examples),
        processing_class=tokenizer,
    ).train_dataset
    columns = ["id", *TOKENS[kind]]
    assert ours.select_columns(columns).to_list()[:-1] == trl.select_columns(columns).to_list()
    assert ours["row"] == [0, 1, 2, FILLER]


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_trainers_learn_from_the_tokens_in_the_file_and_make_none(
    tiny: str, tmp_path: Path, kind: Literal["sft", "dpo"]
) -> None:
    job = job_for(kind, tiny, tmp_path / "a.parquet", fields={"max_length": 4})
    other = {"id": [7], **{name: [[11, 12, 13, 14, 15]] for name in TOKENS[kind]}}
    pq.write_table(pa.table(other), job.train)
    trainer = make_trainer(job, str(tmp_path / "scratch"), 1, fresh=True)
    assert trainer.train_dataset[0] == {"id": 7, "row": 0} | {name: [11, 12, 13, 14, 15] for name in TOKENS[kind]}


def test_examples_that_have_tokens_are_packed(tiny: str, tmp_path: Path) -> None:
    fields = {"max_length": 128, "packing": True, "num_train_epochs": 1}
    packed = trainer_for("sft", tiny, tmp_path, rows=4, fields=fields).train_dataset
    alone = trainer_for("sft", tiny, tmp_path, rows=4).train_dataset
    assert sum(map(len, packed["seq_lengths"][:-1])) == 4
    assert max(map(len, packed["input_ids"])) <= 128
    for column in ("input_ids", "labels"):
        assert Counter(chain(*packed[column][:-1])) == Counter(chain(*alone[column][:-1]))


def mixture_of_experts(tokenizer: str, folder: Path) -> str:
    """A tiny model with experts, under the tokenizer of another."""
    from transformers import MixtralConfig, MixtralForCausalLM

    made = AutoTokenizer.from_pretrained(tokenizer)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": len(made)}
    MixtralForCausalLM(MixtralConfig(**sizes, **heads)).save_pretrained(folder)
    made.save_pretrained(folder)
    return str(folder)


def gradient(trainer: Any, examples: list[dict[str, Any]]) -> torch.Tensor:
    trainer.model.zero_grad()
    batch = trainer.data_collator(examples)
    items = (batch["labels"] != -100).sum() if "labels" in batch else None
    trainer.model.train()
    trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_the_filler_adds_nothing_to_the_gradient_of_sft(tiny: str, tmp_path: Path) -> None:
    trainer = trainer_for("sft", tiny, tmp_path)
    rows = trainer.train_dataset
    alone, filled = gradient(trainer, [rows[0]]), gradient(trainer, [rows[0], rows[len(rows) - 1]])
    assert alone.norm() > 0
    torch.testing.assert_close(alone, filled, atol=1e-5, rtol=1e-4)


def test_examples_laid_end_to_end_teach_what_they_teach_side_by_side(tiny: str, tmp_path: Path) -> None:
    """With another attention than FlashAttention, which a CPU does not have."""
    fields = {"max_length": 256, "per_device_train_batch_size": 2, "num_train_epochs": 1}
    padded = trainer_for("sft", tiny, tmp_path, fields=fields)
    flat = trainer_for("sft", tiny, tmp_path, fields=fields | {"padding_free": True})
    rows = [padded.train_dataset[number] for number in (0, 2, 5)]  # of unlike lengths, and the filler
    assert flat.data_collator(rows)["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in rows))
    torch.testing.assert_close(gradient(flat, rows), gradient(padded, rows), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "nca_pair", "ipo"])
def test_the_filler_adds_nothing_to_the_gradient_of_dpo(tiny: str, tmp_path: Path, loss: str) -> None:
    fields = {"max_length": 256, "per_device_train_batch_size": 2, "num_train_epochs": 1, "loss_type": [loss]}
    trainer = trainer_for("dpo", tiny, tmp_path, fields=fields)
    with torch.no_grad():  # as in the midst of training: the policy is no longer its reference
        for weights in trainer.model.parameters():
            weights.add_(0.02 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(1)))
    rows = trainer.train_dataset
    filler = rows[len(rows) - 1]
    alone, filled = gradient(trainer, [rows[0]]), gradient(trainer, [rows[0], filler])
    assert alone.norm() > 0
    torch.testing.assert_close(alone, 2 * filled, atol=1e-5, rtol=1e-4)  # the loss is a mean over the batch
    assert gradient(trainer, [filler, filler]).norm() == 0


def test_what_ends_an_answer_ends_it_in_the_tokenizer_and_in_the_model(tiny: str, tmp_path: Path) -> None:
    """An engine that serves the policy stops at the tokenizer's end of sequence, and at those of the model's config."""
    trainer = trainer_for("sft", tiny, tmp_path, fields={"max_length": 256, "eos_token": "<|endoftext|>"})
    number = trainer.processing_class.convert_tokens_to_ids("<|endoftext|>")
    trainer.save_model(str(tmp_path / "saved"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|endoftext|>", number)
    saved = GenerationConfig.from_pretrained(tmp_path / "saved").eos_token_id
    assert number in (saved if isinstance(saved, list) else [saved])


def test_the_loss_is_on_the_answer_alone(tiny: str, tmp_path: Path) -> None:
    trainer = trainer_for("sft", tiny, tmp_path)
    row = trainer.train_dataset[0]
    learnt = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    text = trainer.processing_class.decode(learnt, skip_special_tokens=True).strip()
    assert text == example(row["id"], "sft")["completion"][0]["content"]


@pytest.mark.parametrize(("kind", "rows"), [("sft", 1), ("dpo", 3)])
def test_fewer_examples_than_one_step_takes_are_one_step(
    tiny: str, tmp_path: Path, kind: Literal["sft", "dpo"], rows: int
) -> None:
    """And that step is no warm-up, which would learn nothing."""
    fields = {"max_length": 256, "per_device_train_batch_size": 2, "num_train_epochs": 1, "warmup_steps": 0.03}
    trainer = trainer_for(kind, tiny, tmp_path, rows=rows, global_batch=16, fields=fields)
    before = [weights.clone() for weights in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.global_step == 1
    assert any(not (a == b).all() for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_without_fsdp_the_reference_is_held_as_the_policy_is(tiny: str, tmp_path: Path) -> None:
    """In bfloat16 it would be another model: autocast computes in float32 between the layers of float32 weights."""
    fields = {"max_length": 256, "per_device_train_batch_size": 2, "num_train_epochs": 1, "bf16": True}
    trainer = trainer_for("dpo", tiny, tmp_path, rows=2, fields=fields)
    assert {weights.dtype for weights in trainer.ref_model.parameters()} == {torch.float32}
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)


def test_ddp_looks_for_idle_weights_only_where_there_may_be_some(tiny: str, tmp_path: Path) -> None:
    trainer = trainer_for("sft", tiny, tmp_path, lora={"r": 4})
    assert trainer.args.ddp_find_unused_parameters is False
    fields = {"max_length": 256, "per_device_train_batch_size": 2, "ddp_find_unused_parameters": True}
    assert trainer_for("sft", tiny, tmp_path, lora={"r": 4}, fields=fields).args.ddp_find_unused_parameters is True
    experts = mixture_of_experts(tiny, tmp_path / "experts")
    assert trainer_for("sft", experts, tmp_path, lora={"r": 4}).args.ddp_find_unused_parameters is True


def trained(trainer: Any) -> dict[str, torch.Tensor]:
    """A copy of the weights that are trained."""
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}


def reference(trainer: Any) -> dict[str, torch.Tensor]:
    """DPO's frozen reference, under the names of what is trained: a model, or a second adapter."""
    model, there = (trainer.ref_model, "") if trainer.ref_model is not None else (trainer.model, ".ref.")
    found = ((name, p) for name, p in model.named_parameters() if there in name)
    return {name.replace(".ref.", ".default."): p.detach().clone() for name, p in found}


def step_before(tiny: str, folder: Path, lora: dict[str, Any] | None) -> dict[str, torch.Tensor]:
    """Leave a policy that was trained already in `folder`, a model or an adapter; the weights that were."""
    model, draw = AutoModelForCausalLM.from_pretrained(tiny), torch.Generator().manual_seed(1)
    model = get_peft_model(model, lora_config(lora)) if lora else model
    learnt = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for weights in learnt.values():
            weights.add_(0.05 * torch.randn(weights.shape, generator=draw))
    model.save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder / "model")
    return learnt


def assert_same(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert weights.keys() == others.keys()
    torch.testing.assert_close(weights, others)


@pytest.mark.parametrize(
    ("kind", "lora"),
    [("sft", {"r": 4, "lora_dropout": 0.5}), ("dpo", {"r": 4}), ("dpo", None)],
    ids=["sft of an adapter", "dpo of an adapter", "dpo of a whole model"],
)
def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(
    tiny: str, tmp_path: Path, kind: Literal["sft", "dpo"], lora: dict[str, Any] | None
) -> None:
    """Weights, optimizer, schedule and random state; and DPO keeps the reference that it began with, which is what
    the step before left.
    """
    fields = {"max_length": 256, "per_device_train_batch_size": 1, "num_train_epochs": 1, "learning_rate": 3e-2}
    fields |= {"save_steps": 1, "save_total_limit": 2}
    before = step_before(tiny, tmp_path / "before", lora) if kind == "dpo" else {}
    start = str(tmp_path / "before") if before else ""
    trainer = trainer_for(kind, tiny, tmp_path, rows=2, lora=lora, start=start, fields=fields, global_batch=1)
    began = trained(trainer)
    if lora:
        assert all("lora" in name for name in began)
    if before:
        assert_same(began, before)
        assert_same(reference(trainer), before)
    trainer.train()

    job = job_for(kind, tiny, tmp_path / f"{kind}.parquet", lora=lora, start=start, fields=fields, global_batch=1)
    resumed = make_trainer(job, str(tmp_path / "resumed"), 1, fresh=False)
    resumed.train(resume_from_checkpoint=str(tmp_path / "scratch/checkpoint-1"))
    assert (trainer.state.global_step, resumed.state.global_step) == (2, 2)
    assert_same(trained(resumed), trained(trainer))
    assert any(not torch.equal(weights, began[name]) for name, weights in trained(resumed).items())
    if before:
        assert_same(reference(resumed), before)


def test_a_checkpoint_is_due_by_the_clock_and_when_a_node_gives_notice(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, notices, now = trainer_for("sft", tiny, tmp_path), [None, "a", "a", "b", None], 0
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: notices.pop(0) if notices else None)
    monkeypatch.setattr(ray.train, "report", lambda metrics, checkpoint: None)
    monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=lambda: now))

    def saves(watch: CheckpointCallback) -> bool:
        return bool(watch.on_step_end(trainer.args, trainer.state, TrainerControl()).should_save)

    by_notice = CheckpointCallback(trainer, job_for("sft", tiny, tmp_path, save_every_s=1e9), None, 0)
    assert [saves(by_notice) for _ in range(5)] == [False, True, False, True, False]
    by_clock = CheckpointCallback(trainer, job_for("sft", tiny, tmp_path / "train.parquet", save_every_s=60), None, 0)
    asked = []
    for now in (50, 70, 80, 120, 140):  # noqa: B007 - the clock reads it
        asked.append(saves(by_clock))
        if asked[-1]:
            by_clock.on_save(trainer.args, trainer.state, TrainerControl())
    assert asked == [False, True, False, False, True]
    by_clock = CheckpointCallback(trainer, job_for("sft", tiny, tmp_path / "train.parquet", save_every_s=60), None, 0)
    now, trainer.state.epoch = 300, 2.0
    assert not saves(by_clock)  # the evaluation at the epoch's end comes first
    assert by_clock.on_epoch_end(trainer.args, trainer.state, TrainerControl()).should_save


@pytest.fixture(scope="module")
def half(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model as models mostly are: in bfloat16."""
    folder = str(tmp_path_factory.mktemp("half"))
    AutoModelForCausalLM.from_pretrained(tiny, dtype="bfloat16").save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def test_a_model_is_served_in_the_type_of_its_base_and_trained_on_in_float32(half: str, tmp_path: Path) -> None:
    """A step of training that bfloat16 would round away is there in the next training."""
    trainer = trainer_for("sft", half, tmp_path)
    with torch.no_grad():
        for weights in trainer.model.parameters():
            weights.mul_(1 + 1e-4)
    learnt = trained(trainer)
    save_whole(trainer, tmp_path / "scratch/model")
    upload_trained(f"{tmp_path}/scratch/model", job_for("sft", half, tmp_path / "train.parquet"))

    served, base = (AutoModelForCausalLM.from_pretrained(place, dtype="auto") for place in (tmp_path / "model", half))
    assert served.dtype == torch.bfloat16
    assert_same(served.state_dict(), {name: weights.to(torch.bfloat16) for name, weights in served_as(learnt, served)})
    assert (tmp_path / "model/model.safetensors").stat().st_size == Path(half, "model.safetensors").stat().st_size
    assert_same(served.state_dict(), base.state_dict())  # rounded, nothing of it is left
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template

    resumed = trainer_for("dpo", half, tmp_path, start=str(tmp_path))
    assert_same(trained(resumed), learnt)
    assert_same(reference(resumed), learnt)


def served_as(learnt: dict[str, torch.Tensor], model: Any) -> list[tuple[str, torch.Tensor]]:
    """What was learnt, under the names that a model's weights have, with the head that is tied."""
    return [(name, learnt[name if name in learnt else "model.embed_tokens.weight"]) for name in model.state_dict()]


@pytest.mark.parametrize("case", ["float32", "nothing goes on from it", "adapter"])
def test_no_second_copy_of_the_weights_is_left_where_it_is_of_no_use(
    tiny: str, half: str, tmp_path: Path, case: str
) -> None:
    model, lora = tiny if case == "float32" else half, {"r": 4} if case == "adapter" else None
    trainer = trainer_for("sft", model, tmp_path, lora=lora)
    save_whole(trainer, tmp_path / "scratch/model")
    job = job_for("sft", model, tmp_path / "train.parquet", lora=lora, goes_on=case != "nothing goes on from it")
    upload_trained(f"{tmp_path}/scratch/model", job)
    assert not (tmp_path / "master").exists()
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    types = {str(one.dtype) for one in load_file(weights).values()}
    assert types == {"torch.bfloat16" if case == "nothing goes on from it" else "torch.float32"}


def test_a_model_in_several_files_says_how_large_they_are(half: str, tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(half, dtype="float32").save_pretrained(
        tmp_path / "whole", max_shard_size="300KB"
    )
    cast(tmp_path / "whole", tmp_path / "half", torch.bfloat16)
    index = json.loads((tmp_path / "half/model.safetensors.index.json").read_text())
    files = [load_file(file) for file in (tmp_path / "half").glob("*.safetensors")]
    assert len(files) > 1
    assert index["metadata"]["total_size"] == sum(weights.nbytes for file in files for weights in file.values())
    served, base = (AutoModelForCausalLM.from_pretrained(place, dtype="auto") for place in (tmp_path / "half", half))
    assert_same(served.state_dict(), base.state_dict())


@pytest.mark.parametrize(
    ("steps", "keep", "kept"),
    [(30, 3, [10, 20]), (30, 1, []), (30, 0, []), (2, 5, [1]), (1, 4, []), (31, 2, [16])],
)
def test_a_model_is_kept_at_moments_evenly_spread_and_the_last_is_the_end(
    steps: int, keep: int, kept: list[int]
) -> None:
    assert moments(steps, keep) == kept


def test_rows_seen_are_those_of_each_epoch_a_global_batch_in_each_step(tiny: str, tmp_path: Path) -> None:
    """Also where the batches of the workers do not add up to it."""
    fields = {"max_length": 256, "per_device_train_batch_size": 2, "num_train_epochs": 2}
    trainer = trainer_for("sft", tiny, tmp_path, fields=fields, global_batch=3)

    class Note(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            trainer.note_rows()

    trainer.add_callback(Note())
    trainer.train()
    by_epoch = {epoch: sorted(row for _, e, row, _ in trainer.seen if e == epoch) for epoch in (0, 1)}
    assert by_epoch == {0: [0, 1, 2, 3, 4], 1: [0, 1, 2, 3, 4]}
    assert Counter(step for step, *_ in trainer.seen) == {1: 3, 2: 2, 3: 3, 4: 2}
