import subprocess
from pathlib import Path

import pytest

from launch import clusters
from launch.clusters import ClusterSettings, load_cluster
from launch.slurm import make_executor


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90), ("1:30", 2), ("02:00:00", 120), ("1-12", 2160), ("1-12:30", 2190), ("2-00:00:30", 2881), (7, 7),
    ],
)  # fmt: skip
def test_time_limits(text: object, minutes: int) -> None:
    assert ClusterSettings.model_validate({"time": text}).time == minutes


@pytest.mark.parametrize("text", ["soon", "1h", "", "-5", "1:2:3:4:5", 0])
def test_what_is_no_time_limit(text: object) -> None:
    with pytest.raises(ValueError):
        ClusterSettings.model_validate({"time": text})


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 15), (4, 60), (8, 120), (6000, 120)])
def test_the_request_to_stop_comes_early_enough(minutes: int, seconds: int) -> None:
    assert ClusterSettings(time=minutes).delay == seconds
    assert ClusterSettings(time=minutes, signal_delay=300).delay == 300


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(clusters, "USER_FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text("cluster_name: big\npartition: gpu\ngpus_per_node: 8\nmem: 480G\n")
    return tmp_path


def test_a_cluster_by_name_by_file_and_by_itself(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = load_cluster("mine", {"nodes": 4, "mem": "64G"})
    assert (by_name.partition, by_name.processes, by_name.mem) == ("gpu", 32, "64G")
    assert load_cluster(str(files / "mine.yaml"), {}).partition == "gpu"
    monkeypatch.setattr(clusters, "slurm_config", lambda: {"ClusterName": "big"})
    assert load_cluster("auto", {}).partition == "gpu"
    monkeypatch.setattr(clusters, "slurm_config", dict)
    assert load_cluster("auto", {}) == ClusterSettings()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nowhere", {}, "there is no cluster nowhere: neither a file nor one of example, mine"),
        ("mine", {"time": "soon"}, "options: time: 'soon' is no time limit"),
        ("mine", {"time": "0"}, "options: time: Input should be greater than or equal to 1"),
        ("odd", {}, r"odd\.yaml: partitoin: Extra inputs"),
    ],
)
def test_mistakes(files: Path, name: str, changes: dict[str, object], message: str) -> None:
    (files / "odd.yaml").write_text("partitoin: gpu\n")
    with pytest.raises(ValueError, match=message.replace("example, mine", "example, mine, odd")):
        load_cluster(name, changes)


def test_what_yaml_would_take_for_a_number(files: Path) -> None:
    (files / "odd.yaml").write_text(
        "time: 12:00:00\nnodes: 2\npartition:\nsetup: [module load cuda]\nsbatch: {exclusive: true}\n"
    )
    found = load_cluster("odd", {})
    assert (found.time, found.nodes, found.partition, found.sbatch) == (720, 2, None, {"exclusive": True})


def script(tmp_path: Path, **settings: object) -> list[str]:
    cluster = ClusterSettings.model_validate(settings)
    return make_executor(tmp_path / "jobs", tmp_path, "my run", cluster, tmp_path / "code").script().splitlines()


def test_the_batch_script(tmp_path: Path) -> None:
    lines = script(
        tmp_path, nodes=4, gpus_per_node=8, cpus_per_task=6, mem="480G", time="2:00:00", partition="gpu", account="me",
        qos="high", constraint="a100", exclude="n3", setup=["module load cuda"], sbatch={"mail-type": "END"},
        srun=["--cpu-bind=cores"],
    )  # fmt: skip
    wanted = {
        "nodes=4", "gpus-per-node=8", "ntasks-per-node=8", "cpus-per-task=6", "mem=480G", "time=120", "partition=gpu",
        "account=me", "qos=high", "constraint=a100", "exclude=n3", "mail-type=END", "requeue", "signal=USR2@120",
        "job-name='my run'", "open-mode=append", f"output={tmp_path}/jobs/%j_0_log.out",
    }  # fmt: skip
    assert {line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")} == wanted
    assert lines.index("module load cuda") < next(k for k, line in enumerate(lines) if line.startswith("srun "))
    (srun,) = (line for line in lines if line.startswith("srun "))
    assert "--kill-on-bad-exit=1 --cpu-bind=cores" in srun and srun.endswith(f"submitit.core._submit {tmp_path}/jobs")
    assert lines[-1].endswith(f"-m launch.requeue {tmp_path}")


def test_names_that_a_shell_would_read(tmp_path: Path) -> None:
    place = tmp_path / "a b; touch x"
    lines = make_executor(place, place, "x; y", ClusterSettings(), place).script().splitlines()
    assert lines[-1].endswith(f"-m launch.requeue '{place}'")
    assert "#SBATCH --job-name='x; y'" in lines


@pytest.mark.parametrize(
    ("runtime", "start"),
    [("pyxis", "--container-image=my.sqsh python3 -u"), ("apptainer", "apptainer exec --nv my.sqsh python3 -u")],
)
def test_containers(tmp_path: Path, runtime: str, start: str) -> None:
    lines = script(tmp_path, container_image="my.sqsh", container_runtime=runtime)
    assert any(start in line for line in lines if line.startswith("srun "))


def test_without_gpus(tmp_path: Path) -> None:
    lines = script(tmp_path, gpus_per_node=0, tasks_per_node=3)
    assert "#SBATCH --ntasks-per-node=3" in lines and not any("--gpus" in line for line in lines)


@pytest.mark.parametrize("code", [0, 1])
def test_what_the_setup_sets_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """However the processes ended, the last line is reached, and finds the snapshot before what modules provide."""
    commands, said = tmp_path / "bin", tmp_path / "said"
    commands.mkdir()
    python = commands / "python"
    python.write_text(f'#!/bin/sh\necho "$PYTHONPATH $*" >> {said}\n[ $# = 3 ] || exec sleep 600\n')
    (commands / "srun").write_text(f"#!/bin/sh\nwhile ! [ -s {said} ]; do sleep 0.01; done\nexit {code}\n")
    for command in commands.iterdir():
        command.chmod(0o755)
    monkeypatch.setattr("launch.slurm.sys.executable", str(python))
    text = "\n".join(script(tmp_path, setup=["set -euo pipefail", "export PYTHONPATH=/modules"]))
    environment = {"PATH": f"{commands}:/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "1"}
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
    path = f"{tmp_path}/code:/modules -m launch.requeue {tmp_path}"
    assert said.read_text().splitlines() == [f"{path} 20", path]
