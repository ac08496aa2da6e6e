"""What touches private parts of Ray: each is to fail here when Ray changes."""

import os
import socket
from pathlib import Path

import pytest
from ray._private.utils import get_ray_address_file
from ray.data import DataContext
from ray.data._internal.execution import backpressure_policy

from ultraif_ray.flow import ray_internals


def test_a_note_of_a_dead_cluster_is_deleted_and_one_of_a_live_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    note = Path(get_ray_address_file(None))
    note.parent.mkdir(parents=True, exist_ok=True)
    ray_internals.forget_dead_cluster()  # there is none
    with socket.socket() as cluster:
        cluster.bind(("127.0.0.1", 0))
        cluster.listen()
        note.write_text(f"127.0.0.1:{cluster.getsockname()[1]}")
        ray_internals.forget_dead_cluster()
        assert note.exists()
    ray_internals.forget_dead_cluster()
    assert not note.exists()


def test_one_line_of_rays_is_hidden_and_every_other_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with ray_internals.hide_native_log_line():
        os.write(2, b"logging.cc: Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL to 3\nours\n")
        os.write(2, b"and ours\n")
    assert capfd.readouterr().err == "ours\nand ours\n"


def test_settings_are_in_a_context_of_their_own() -> None:
    before = DataContext.get_current()
    context = before.copy()
    ray_internals.limit_waiting_blocks(context, ray_internals.WaitingBlocks(between=1, ahead=2, readers=1))
    ray_internals.keep_memory_flat(context)
    key = backpressure_policy.ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY
    assert len(context.get_config(key)) == len(backpressure_policy.ENABLED_BACKPRESSURE_POLICIES) + 1
    assert before.get_config(key) is None
    assert before.custom_execution_callback_classes == []


def test_a_users_own_number_of_footer_readers_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal.datasource_v2.formats.parquet.footer_file_indexer import FooterFileIndexer

    name = "RAY_DATA_PARQUET_FOOTER_NUM_ACTORS"
    for own, actors in ((None, 1), ("5", 5)):
        monkeypatch.delenv(name, raising=False)
        if own:
            monkeypatch.setenv(name, own)
        ray_internals.read_footers_with_one_actor()
        assert FooterFileIndexer(ignore_missing_paths=False)._num_actors == actors
        os.environ.pop(name, None)


def test_a_process_of_ray_job_submit_is_told_from_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ray_internals.is_submitted_job()
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert ray_internals.is_submitted_job()
