"""Handing in a job, to a stand-in for sbatch."""

from collections.abc import Callable
from pathlib import Path

import pytest

from launch.cli.resources import asked_for
from launch.clusters import cluster_of
from launch.clusters.slurm.batch import check_sbatch, hand_in, make_executor
from launch.clusters.slurm.settings import SlurmSettings
from launch.plan import cluster_checks, on_device
from sivae_dist.config.run_settings import load_config

Sbatch = Callable[[str], None]


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sbatch:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")

    def does(text: str) -> None:
        (tmp_path / "bin" / "sbatch").write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / "sbatch").chmod(0o755)

    return does


def submit(tmp_path: Path, **settings: object) -> str:
    cluster = SlurmSettings.model_validate(settings)
    executor = make_executor(tmp_path / "jobs", tmp_path, "name", cluster, None)
    return str(hand_in(executor, lambda: executor.submit(len, "")).job_id)


def test_without_sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"^sbatch was not found on this machine: .*--cluster local$"):
        check_sbatch()
    with pytest.raises(ValueError, match="sbatch was not found"):
        submit(tmp_path)
    (check,) = cluster_checks(cluster_of("slurm"))
    assert str(check).startswith("FAILED slurm: sbatch was not found") and not check.fine


def test_what_slurm_says_on_one_line(tmp_path: Path, sbatch: Sbatch) -> None:
    sbatch(
        "echo 'sbatch: error: Memory specification can not be satisfied' >&2\n"
        "echo 'sbatch: error: Batch job submission failed: Requested node configuration is not available' >&2; exit 1"
    )
    with pytest.raises(ValueError) as raised:
        submit(tmp_path)
    assert str(raised.value) == (
        "SLURM refused the job: Memory specification can not be satisfied; Batch job submission failed: Requested node "
        "configuration is not available"
    )


def test_the_number_among_what_a_site_prints(tmp_path: Path, sbatch: Sbatch) -> None:
    sbatch("echo 'Welcome! job 1 of 2 checks: ok'; echo 'Submitted batch job 4711 on cluster x'")
    assert submit(tmp_path) == "4711"
    sbatch("echo 'Welcome! job 1 of 2 checks: ok'")
    with pytest.raises(ValueError, match="sbatch did not print the number of the job"):
        submit(tmp_path)


def test_the_script_comes_before_the_environment(
    tmp_path: Path, sbatch: Sbatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For sbatch it would be the other way round. What the script leaves open, the environment decides."""
    sbatch(f"env > {tmp_path}/environment; echo Submitted batch job 7")
    kept = {"SBATCH_ACCOUNT": "mine", "SBATCH_QOS": "low"}
    given = {"SBATCH_PARTITION": "old", "SBATCH_TIMELIMIT": "5", "SBATCH_GRES": "gpu:1", "SBATCH_NO_REQUEUE": "1"}
    for name, value in (kept | given).items():
        monkeypatch.setenv(name, value)
    submit(tmp_path, partition="new")
    seen = dict(line.partition("=")[::2] for line in (tmp_path / "environment").read_text().splitlines())
    assert {name: seen.get(name) for name in kept} == kept and not given.keys() & seen.keys()


@pytest.mark.parametrize(
    ("cluster", "options", "device", "expected"),
    [
        ("auto", {"gpus_per_node": "a100:2"}, "auto", "cuda"),
        ("auto", {}, "auto", "cuda"),
        ("auto", {"gpus_per_node": "0"}, "auto", "cpu"),
        ("auto", {"sbatch": ["gres=gpu:2"]}, "auto", "cuda"),
        ("auto", {"gpus_per_node": "2"}, "cpu", "cpu"),
        ("local", {}, "auto", "auto"),
        ("local", {"gpus_per_node": "1"}, "auto", "cuda"),
        ("local", {"gpus_per_node": "0"}, "auto", "cpu"),
    ],
)
def test_resources_imply_the_device(
    monkeypatch: pytest.MonkeyPatch, cluster: str, options: dict[str, object], device: str, expected: str
) -> None:
    monkeypatch.setattr("launch.clusters.slurm.reading.slurm_config", dict)
    settings = load_config("tiny", [f"device={device}"])
    assert on_device(settings, asked_for(cluster, options)[1]).device == expected


def test_a_device_that_contradicts_the_resources() -> None:
    with pytest.raises(ValueError, match="device=cuda needs GPUs, but none are requested: set --gpus-per-node"):
        on_device(load_config("tiny", ["device=cuda"]), asked_for("local", {"gpus_per_node": "0"})[1])


def test_more_processes_than_gpus() -> None:
    _, wanted = asked_for("local", {"gpus_per_node": "2", "tasks_per_node": 4})
    with pytest.raises(ValueError, match="4 processes per node need one GPU each, but 2 are requested"):
        on_device(load_config("tiny"), wanted)
    assert on_device(load_config("tiny", ["device=cpu"]), wanted).device == "cpu"


def test_options_that_are_of_no_use_on_this_machine() -> None:
    with pytest.raises(ValueError, match=r"^--partition, --sbatch: only for SLURM; omit with --cluster local$"):
        asked_for("local", {"partition": "gpu", "sbatch": ["exclusive"], "tasks_per_node": 2})
