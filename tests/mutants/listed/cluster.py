"""Mutants of what a cluster needs: a run's folder on an object store, and the scripts in `cluster/`."""

from tests.mutants.mutant import Mutant

S3 = "tests/cluster/test_s3.py"
FILES = "tests/cluster/test_files.py"

MUTANTS = (
    Mutant(
        "a store's listings are remembered",
        "filesystem: listings are never remembered, since other processes write here too",
        "ultraif_ray/store/folder.py",
        "fsspec.core.url_to_fs(uri, use_listings_cache=False)",
        "fsspec.core.url_to_fs(uri)",
        (f"{S3}::test_what_another_process_writes_is_seen_at_once",),
    ),
    Mutant(
        "a JSON file is read in two requests",
        "read_json: a file that another process replaces is read whole",
        "ultraif_ray/store/folder.py",
        "json.loads(self.fs.cat_file(self.at(*parts)))",
        "json.load(self.fs.open(self.at(*parts)))",
        (f"{S3}::test_a_file_that_is_replaced_all_the_time_is_read_whole",),
    ),
    Mutant(
        "slurm asks for no token",
        "cluster/README.md: Ray asks for a token (RAY_AUTH_MODE=token)",
        "cluster/slurm.sh",
        "export RAY_AUTH_MODE RAY_AUTH_TOKEN\n",
        "export RAY_AUTH_MODE\n",
        (f"{FILES}::test_slurm_starts_one_ray_on_every_node_and_runs_the_command",),
    ),
    Mutant(
        "a pod is killed while it drains",
        "cluster/kuberay: the drain is below the grace period",
        "cluster/kuberay/raycluster.yaml",
        "terminationGracePeriodSeconds: 120",
        "terminationGracePeriodSeconds: 60",
        (f"{FILES}::test_kuberay_manifests_keep_the_head_free_and_outlast_a_drain",),
    ),
    Mutant(
        "pods do not drain",
        "cluster/README.md: drain.sh, which KubeRay's pods run before they stop",
        "cluster/kuberay/rayservice.yaml",
        'command: [/home/ray/drain.sh, "90"]',
        'command: [/bin/sleep, "90"]',
        (f"{FILES}::test_kuberay_manifests_keep_the_head_free_and_outlast_a_drain",),
    ),
    Mutant(
        "a password is committed",
        "cluster/README.md: no secrets in these files",
        "cluster/kuberay/raycluster.yaml",
        "redisPassword: {valueFrom: {secretKeyRef: {name: redis, key: password}}}",
        "redisPassword: a-real-password-of-somebody",
        (f"{FILES}::test_no_file_holds_a_secret",),
    ),
    Mutant(
        "a lock leaves a dependency behind",
        "Makefile: names, versions and hashes for every platform",
        "pyproject.toml",
        '"charset-normalizer>=3.4",',
        '"charset-normalizer>=33.4",',
        (f"{FILES}::test_the_locks_have_what_the_project_asks_for",),
    ),
    Mutant(
        "a lock's package has no hash",
        "Makefile: names, versions and hashes for every platform",
        "requirements/gpu.lock",
        "accelerate==1.15.0 \\\n",
        "accelerate==1.15.0\n",
        (f"{FILES}::test_the_locks_have_what_the_project_asks_for",),
    ),
    Mutant(
        "the local cluster asks for no token",
        "cluster/README.md: Ray asks for a token (RAY_AUTH_MODE=token)",
        "cluster/local.sh",
        "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$HOME_OF_CLUSTER",
        "export RAY_AUTH_MODE=disabled RAY_AUTH_TOKEN_PATH=$HOME_OF_CLUSTER",
        ("tests/cluster/test_local.py::test_who_has_no_token_is_refused",),
        heavy=True,
    ),
    Mutant(
        "add starts no node",
        "cluster/README.md: local.sh add",
        "cluster/local.sh",
        '    start_worker "$number"\n    echo "node $number is starting"',
        '    echo "node $number is starting"',
        ("tests/cluster/test_local.py::test_a_node_is_added",),
        heavy=True,
    ),
)
