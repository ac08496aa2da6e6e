"""Secrets where they do not belong: found in names, addresses and whatever holds them, and left out of texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.redact import names_a_secret, redacted, secret_of_address, secrets_in

KEY = "hf_" + "a1B2" * 8

NAMES = """hf_token token hubToken HF_TOKEN auth_token access_token aws_secret_access_key api_key apiKey API-KEY
password db.passwd private_key account_key client_secret credentials Authorization aws_session_token sas_token"""
NO_NAMES = """eos_token pad_token tokens max_tokens max_num_batched_tokens tokenizer logprob_token_ids key keys
api_key_env thinking_token_budget image_token stop monkey secretary tokenizer_mode access"""


@pytest.mark.parametrize("name", NAMES.split())
def test_names_of_secrets(name: str) -> None:
    assert names_a_secret(name)


@pytest.mark.parametrize("name", NO_NAMES.split())
def test_names_of_other_things(name: str) -> None:
    assert not names_a_secret(name)


ADDRESSES = {
    "s3://me:hunter2@bucket/x": "s3://***@bucket/x",
    "s3://AKIAX:hun/ter2+w@bucket/x": "s3://***@bucket/x",  # AWS keys have slashes
    "https://hunter2@host/x": "https://***@host/x",
    "simplecache::s3://me:hunter2@bucket/x": "simplecache::s3://***@bucket/x",
    "https://host/x.jsonl?X-Amz-Date=1&X-Amz-Signature=hunter2": "https://host/x.jsonl?X-Amz-Date=1&X-Amz-Signature=***",
    "https://host/v1?api-key=hunter2": "https://host/v1?api-key=***",
    "https://host/x?sv=1&sig=hunter2%3D": "https://host/x?sv=1&sig=***",
    "https://host/x?download=1&access_token=hunter2": "https://host/x?download=1&access_token=***",
    "https://host/x#token=hunter2": "https://host/x#token=***",
    f"https://host/{KEY}/x": "https://host/***/x",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_with_a_secret(address: str) -> None:
    assert secret_of_address(address)
    assert "hunter2" not in secret_of_address(address)
    assert redacted(f"{address} cannot be read") == f"{ADDRESSES[address]} cannot be read"


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/me@home", "http://127.0.0.1:8000/v1", "http://host:8000/a@b", "https://host/x?download=true",
     "org/name", "/data/a:b@c.jsonl", "https://host/x.parquet?revision=main&page=2", "memory://a", "data/*.jsonl",
     "http://[::1]:80/v1"],
)  # fmt: skip
def test_an_address_without_one(address: str) -> None:
    assert not secret_of_address(address)
    assert redacted(address) == address


def test_wherever_it_is_nested() -> None:
    held = {
        "a": {"b": [{"aws_secret_access_key": "x"}], "eos_token": "</s>", "hf_token": None, "token": ""},
        "config": '{"loader": {"token": "x"}}',
        "c": [KEY, "s3://me:pw@bucket"],
    }
    assert [where for where, _ in secrets_in(held)] == [
        "a.b.0.aws_secret_access_key",
        "config.loader.token",
        "c.0",
        "c.1",
    ]


@given(
    st.recursive(
        st.text() | st.none() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_whatever_is_looked_at(value: object) -> None:
    assert list(secrets_in(value)) == list(secrets_in(value))
    assert redacted(redacted(str(value))) == redacted(str(value))
