"""What needs a tokenizer or a model once: examples that fit, answers, a merged model."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from tests.train.data import example, tiny_model
from ultraif_ray.train import tasks


@pytest.fixture(scope="module")
def tiny(packaged_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_model(packaged_model, tmp_path_factory.mktemp("tiny"))


def test_examples_that_do_not_fit_are_counted_and_left_out(tmp_path: Path, packaged_model: str) -> None:
    rows = [example(number, "sft") for number in range(4)]
    rows[1]["completion"][0]["content"] *= 40
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    tokenizer = AutoTokenizer.from_pretrained(packaged_model)
    source, target = str(tmp_path / "a.parquet"), tmp_path / "out/b.parquet"
    assert tasks.measure(source, str(target), tokenizer, 100) == {"accepted": 3, "too long": 1}
    assert pq.read_table(target).column("id").to_pylist() == [0, 2, 3]
    assert tasks.measure(source, str(target), tokenizer, None) == {"accepted": 4}
    assert tasks.measure(source, str(target), tokenizer, 3) == {"too long": 4}
    assert not target.exists()
    assert tasks.measure(str(tmp_path / "none.parquet"), str(target), tokenizer, 100) == {}


def test_of_a_pair_the_longer_answer_counts(tmp_path: Path, packaged_model: str) -> None:
    row = example(0, "dpo")
    row["rejected"][0]["content"] *= 40
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    tokenizer = AutoTokenizer.from_pretrained(packaged_model)
    found = tasks.measure(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), tokenizer, 100)
    assert found == {"too long": 1}


def test_examples_have_no_system_message_where_the_template_knows_none(tmp_path: Path, packaged_model: str) -> None:
    row = example(0, "sft")
    row["prompt"] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    tokenizer = AutoTokenizer.from_pretrained(packaged_model)
    copies = []
    for known in ("system user assistant", "user assistant"):
        tokenizer.chat_template = (
            "{% for m in messages %}{% if m['role'] in known %}{{ m['content'] }}{% else %}{{ raise_exception('no') }}"
            "{% endif %}{% endfor %}"
        ).replace("known", repr(known.split()))
        tasks.measure(str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"), tokenizer, 100)
        copies.append(pq.read_table(tmp_path / "b.parquet").to_pylist()[0])
    assert copies[0] == row
    assert copies[1] == row | {"prompt": [{"role": "user", "content": "Be brief.\n\nhi"}]}


def test_an_adapter_answers_and_is_merged_into_a_model_that_answers_the_same(tmp_path: Path, tiny: str) -> None:
    import torch
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(tiny)
    trained = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4))
    torch.manual_seed(1)
    for name, weights in trained.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.2)
    trained.save_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.eos_token = "<|endoftext|>"  # noqa: S105 - as `sft.eos_token` sets it
    tokenizer.save_pretrained(tmp_path / "adapter")
    tasks.merge(tiny, str(tmp_path / "adapter"), str(tmp_path / "merged"), trust_remote_code=False)
    chats = [[{"role": "user", "content": text}] for text in ("Hi", "What follows one?", "Say it in more words")]

    def answers(model: str, adapter: str = "") -> list[str]:
        asked = [tasks.Chats(model, chats, adapter)]
        return tasks.answer(asked, max_new_tokens=8, gpu=False, trust_remote_code=False)[0]

    adapted = answers(tiny, str(tmp_path / "adapter"))
    assert len(adapted) == 3
    assert adapted != answers(tiny)
    assert adapted == answers(str(tmp_path / "merged"))
    ends = GenerationConfig.from_pretrained(tmp_path / "merged").eos_token_id
    assert tokenizer.eos_token_id in (ends if isinstance(ends, list) else [ends])
