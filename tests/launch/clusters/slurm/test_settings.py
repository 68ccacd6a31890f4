import re
import subprocess
from pathlib import Path

import pytest
import yaml

from launch.clusters import files as cluster_files
from launch.clusters.slurm import reading
from launch.clusters.slurm.batch import make_executor
from launch.clusters.slurm.reading import load_settings
from launch.clusters.slurm.settings import SlurmSettings


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90), ("1:30", 2), ("02:00:00", 120), ("1-12", 2160), ("1-12:30", 2190), ("2-00:00:30", 2881), (7, 7),
    ],
)  # fmt: skip
def test_time_limits(text: object, minutes: int) -> None:
    assert SlurmSettings.model_validate({"time": text}).time == minutes


@pytest.mark.parametrize("text", ["soon", "1h", "", "-5", "1:2:3:4:5", 0])
def test_what_is_no_time_limit(text: object) -> None:
    with pytest.raises(ValueError):
        SlurmSettings.model_validate({"time": text})


@pytest.mark.parametrize(("minutes", "seconds"), [(1, 15), (4, 60), (8, 120), (6000, 120)])
def test_the_request_to_stop_comes_early_enough(minutes: int, seconds: int) -> None:
    assert SlurmSettings(time=minutes).delay == seconds
    assert SlurmSettings(time=minutes, signal_delay=45).delay == 45


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cluster_files, "USER_FOLDER", tmp_path)
    (tmp_path / "mine.yaml").write_text("cluster_name: big\npartition: gpu\ngpus_per_node: 8\nmem: 480G\n")
    return tmp_path


def test_a_cluster_by_name_by_file_and_by_itself(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = load_settings("mine", {"nodes": 4, "mem": "64G"})
    assert (by_name.partition, by_name.processes, by_name.mem) == ("gpu", 32, "64G")
    assert load_settings(str(files / "mine.yaml"), {}).partition == "gpu"
    monkeypatch.setattr(reading, "slurm_config", lambda: {"ClusterName": "big"})
    assert load_settings("auto", {}).partition == "gpu"
    monkeypatch.setattr(reading, "slurm_config", dict)
    assert load_settings("auto", {}) == SlurmSettings()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("nowhere", {}, "there is no cluster nowhere: it is neither a file nor one of example, mine"),
        ("mien", {}, "; did you mean mine?"),
        ("mine", {"time": "soon"}, r"options: time: 'soon' is not a time limit: write minutes \(90\), hh:mm:ss or"),
        ("mine", {"time": "0"}, "options: time: '0' is not a time limit"),
        ("mine", {"mem": "lots"}, "options: mem: 'lots' is not an amount of memory: write 64G"),
        ("mine", {"nodes": "2-4"}, "options: nodes: '2-4' is not a positive integer"),
        (
            "mine",
            {"gpus_per_node": "all"},
            r"options: gpus_per_node: 'all' is not a number of GPUs: write 4, or TYPE:N",
        ),
        ("mine", {"gpus_per_task": "2"}, "options: gpus_per_task: each process uses one GPU: write 1 or TYPE:1"),
        ("mine", {"gres": "gpu:a100:x"}, "options: gres: 'gpu:a100:x' is not a request for GPUs: write gpu:4 or"),
        ("mine", {"gres": "gpu:2", "gpus_per_node": 4}, "options: gres: gpu:2 and gpus_per_node: 4 contradict"),
        ("mine", {"sbatch": ["gpus=9"], "nodes": 2}, "sbatch option gpus: 9 cannot be divided among 2 nodes"),
        ("mine", {"signal_delay": 600, "time": 10}, "signal_delay: 600 s before a time limit of 600 s"),
        ("mine", {"exclusive": "true"}, "options: unknown key exclusive; it is an option of sbatch: put it below"),
        ("odd", {}, r"odd\.yaml: unknown key partitoin; did you mean partition\?$"),
    ],
)
def test_mistakes(files: Path, name: str, changes: dict[str, object], message: str) -> None:
    (files / "odd.yaml").write_text("partitoin: gpu\n")
    with pytest.raises(ValueError, match=message.replace("example, mine", "example, mine, odd")):
        load_settings(name, changes)


def test_what_yaml_would_take_for_a_number(files: Path) -> None:
    (files / "odd.yaml").write_text(
        "time: 12:00:00\nnodes: 2\npartition:\nsetup: [module load cuda]\nsbatch: {exclusive: true}\n"
    )
    found = load_settings("odd", {})
    assert (found.time, found.nodes, found.partition, found.sbatch) == (720, 2, None, {"exclusive": True})


def script(tmp_path: Path, cluster: SlurmSettings | None = None, **settings: object) -> list[str]:
    cluster = cluster or SlurmSettings.model_validate(settings)
    return make_executor(tmp_path / "jobs", tmp_path, "my run", cluster, tmp_path / "code").script().splitlines()


def lines_of(tmp_path: Path, cluster: SlurmSettings | None = None, **settings: object) -> dict[str, str]:
    """The options in a batch script, each of which stands there once."""
    lines = [line.removeprefix("#SBATCH --") for line in script(tmp_path, cluster, **settings) if "#SBATCH" in line]
    found = dict(line.partition("=")[::2] for line in lines)
    assert len(found) == len(lines), lines
    return found


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
    assert lines[-1].endswith(f"-m launch.clusters.slurm.requeue {tmp_path}")


def test_names_that_a_shell_would_read(tmp_path: Path) -> None:
    place = tmp_path / "a b; touch x"
    lines = make_executor(place, place, "x; y", SlurmSettings(), place).script().splitlines()
    assert lines[-1].endswith(f"-m launch.clusters.slurm.requeue '{place}'")
    assert "#SBATCH --job-name='x; y'" in lines


@pytest.mark.parametrize(
    ("runtime", "start"),
    [("pyxis", "--container-image=my.sqsh python3 -u"), ("apptainer", "apptainer exec --nv my.sqsh python3 -u")],
)
def test_containers(tmp_path: Path, runtime: str, start: str) -> None:
    lines = script(tmp_path, container_image="my.sqsh", container_runtime=runtime)
    assert any(start in line for line in lines if line.startswith("srun "))


@pytest.mark.parametrize(
    "sbatch",
    [
        {"job-name": "project-sub:test1", "cpus-per-task": "2", "mem": "32G", "exclusive": "true",
         "mail-type": ["END", "FAIL"]},
        {"job_name": "project-sub:test1", "-c": "2", "--mem": "32G", "exclusive": "", "mail_type": "END,FAIL"},
        ["-J project-sub:test1", "-c2", "#SBATCH --mem 32G  # of a node", "--exclusive --mail-type=END,FAIL"],
        ["job-name=old", "job-name=project-sub:test1", "cpus_per_task=2", "mem=32G", "exclusive", "mail-type=END,FAIL"],
        "-J project-sub:test1 --cpus-per-task=2 --mem=32G --exclusive --mail-type END,FAIL",
    ],
)  # fmt: skip
def test_each_option_of_sbatch_takes_the_place_of_ours(tmp_path: Path, sbatch: object) -> None:
    lines = lines_of(tmp_path, mem="480G", cpus_per_task=8, sbatch=sbatch)
    wanted = {
        "job-name": "project-sub:test1",
        "cpus-per-task": "2",
        "mem": "32G",
        "exclusive": "",
        "mail-type": "END,FAIL",
    }
    assert wanted.items() <= lines.items()


def test_options_of_the_command_come_before_those_of_the_file(files: Path, tmp_path: Path) -> None:
    (files / "full.yaml").write_text(
        "mem: 480G\nsetup: module load cuda\nsrun: --mpi=none --cpu-bind=cores\n"
        "sbatch: {time: '30', comment: a file, licenses: x, partition: old, mem-per-cpu: 4G, signal: USR2@60}\n"
    )
    given = {"time": "60", "setup": ["export A=1"], "sbatch": ["comment=of mine", "-p new"], "srun": ["mpi=pmix"]}
    cluster = load_settings("full", given)
    lines = lines_of(tmp_path, cluster)
    wanted = {"time": "60", "comment": "'of mine'", "licenses": "x", "partition": "new", "mem-per-cpu": "4G"}
    assert wanted.items() <= lines.items() and "mem" not in lines and lines["signal"] == "USR2@60"
    assert cluster.setup == ("module load cuda", "export A=1")
    assert cluster.srun == {"mpi": "pmix", "cpu-bind": "cores"}
    assert lines_of(tmp_path, load_settings("full", {"mem": "8G"})).keys() & {"mem", "mem-per-cpu"} == {"mem"}


@pytest.mark.parametrize(
    ("settings", "gpus", "processes", "wanted"),
    [
        ({"gpus_per_node": "a100:4", "nodes": "2"}, 4, 8, {"gpus-per-node": "a100:4"}),
        ({"gpus_per_node": "a100:2,v100:1"}, 3, 3, {"gpus-per-node": "a100:2,v100:1"}),
        ({"gpus_per_node": 4, "gpus_per_task": 1}, 4, 4, {"gpus-per-node": "4", "gpus-per-task": "1"}),
        ({"gpus_per_task": "a100:1", "tasks_per_node": 2}, 2, 2, {"gpus-per-task": "a100:1"}),
        ({"gres": "gpu:a100:4,nvme:100G"}, 4, 4, {"gres": "gpu:a100:4,nvme:100G"}),
        ({"gres": "nvme:100G", "gpus_per_node": 2}, 2, 2, {"gres": "nvme:100G", "gpus-per-node": "2"}),
        ({"gpus_per_node": 8, "sbatch": {"gres": "gpu:2"}}, 2, 2, {"gres": "gpu:2"}),
        ({"nodes": 2, "sbatch": ["-G a100:8"]}, 4, 8, {"gpus": "a100:8"}),
        ({"gpus_per_node": 4, "sbatch": {"gpus-per-node": "false"}}, 4, 4, {}),
        ({"gpus_per_node": 0, "sbatch": ["--ntasks=6"], "nodes": 2}, 0, 6, {}),
    ],
)
def test_gpus_however_they_are_asked_for(
    tmp_path: Path, settings: dict[str, object], gpus: int, processes: int, wanted: dict[str, str]
) -> None:
    cluster = SlurmSettings.model_validate(settings)
    lines = lines_of(tmp_path, cluster)
    assert (cluster.gpus, cluster.processes) == (gpus, processes)
    assert {name: value for name, value in lines.items() if name.startswith("g")} == wanted


@pytest.mark.parametrize(
    ("below", "above", "wanted"),
    [
        ("gpus_per_node: a100:8", {"gpus_per_node": "2"}, {"gpus-per-node": "2"}),
        ("gres: gpu:a100:8,nvme:1", {"gpus_per_node": "2"}, {"gres": "gpu:a100:2,nvme:1"}),
        ("gres: gpu:a100:8,nvme:1", {"gpus_per_node": "v100:2"}, {"gres": "gpu:v100:2,nvme:1"}),
        ("gres: gpu:a100:8,nvme:1", {"gpus_per_node": "0"}, {"gres": "nvme:1"}),
        ("gpus_per_node: 8", {"gres": "gpu:2"}, {"gres": "gpu:2"}),
        ("gpus_per_node: 8", {"sbatch": ["gpus=2"]}, {"gpus": "2"}),
        ("sbatch: {gpus: 8}", {"gpus_per_node": "2"}, {"gpus-per-node": "2"}),
        ("gpus_per_node: 8", {"gpus_per_task": "1"}, {"gpus-per-node": "8", "gpus-per-task": "1"}),
        ("gpus_per_node: 8", {"gpus_per_task": "1", "tasks_per_node": 2}, {"gpus-per-task": "1"}),
    ],
)
def test_gpus_of_the_command_instead_of_the_files(
    files: Path, tmp_path: Path, below: str, above: dict[str, object], wanted: dict[str, str]
) -> None:
    (files / "gpus.yaml").write_text(below)
    lines = lines_of(tmp_path, load_settings("gpus", above))
    assert {name: value for name, value in lines.items() if name.startswith("g")} == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sbatch": ["-o here.txt"]}, "sbatch option output cannot be set: `sivae logs` reads"),
        ({"sbatch": {"no-requeue": True}}, "no-requeue cannot be set: a job that is preempted"),
        ({"sbatch": {"requeue": "false"}}, "requeue cannot be switched off: a job that is preempted"),
        ({"sbatch": {"open_mode": "truncate"}}, "open-mode cannot be truncate: each start would erase"),
        ({"sbatch": {"signal": "B:USR1@60"}}, "signal cannot be B:USR1@60: the processes save on USR2"),
        ({"sbatch": {"array": "0-3"}}, "array cannot be set: `sivae sweep` creates the arrays"),
        ({"sbatch": {"time": "false"}}, "time cannot be left out"),
        ({"sbatch": {"partition": True}}, "partition needs a value"),
        ({"sbatch": {"mem": "1G", "--mem": "2G"}}, "mem is given twice: 1G and 2G"),
        ({"sbatch": ["2"]}, "'2' is not a known short option of SLURM"),
        ({"srun": ["--ntasks=3"]}, "srun option ntasks cannot be set: the number of processes is set by nodes"),
        ({"srun": ["-K0"]}, "kill-on-bad-exit has to stay 1"),
        ({"srun": ["--export=NONE"]}, "export has to begin with ALL, not NONE"),
    ],
)
def test_what_a_run_needs_is_not_overridden(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^options: .*(?:{message})"):
        load_settings(None, options)


def test_what_may_be_said_again(tmp_path: Path) -> None:
    same = {"requeue": "true", "open-mode": "append", "signal": "SIGUSR2@60"}
    lines = lines_of(tmp_path, sbatch=same, srun=["--kill-on-bad-exit", "--export=ALL,A=1"])
    assert (lines["requeue"], lines["open-mode"], lines["signal"]) == ("", "append", "USR2@60")


def test_a_dependency_of_the_user_and_one_of_ours(tmp_path: Path) -> None:
    cluster = SlurmSettings.model_validate({"sbatch": {"dependency": "singleton"}, "job_name": "p-s:{name}"})
    lines = make_executor(tmp_path, tmp_path, "six", cluster, None, after="afterany:7").script().splitlines()
    assert "#SBATCH --dependency=singleton,afterany:7" in lines and "#SBATCH --job-name=p-s:six" in lines


def test_the_example_has_every_key() -> None:
    assert load_settings("example", {}).gpus == 8
    text = (Path(reading.__file__).parents[3] / "configs" / "clusters" / "example.yaml").read_text()
    keys = re.findall(r"^(?:# )?([a-z_]+):", text, re.MULTILINE)
    assert keys == list(SlurmSettings.model_fields)
    every = re.sub(r"^# (?=[a-z_]+:|  )", "", text, flags=re.MULTILINE)
    values = yaml.load(every, yaml.BaseLoader)
    values.pop("gres")  # which stands for gpus_per_node
    assert SlurmSettings.model_validate(values).model_fields_set == set(keys) - {"gres"}


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
    monkeypatch.setattr("launch.clusters.slurm.batch.sys.executable", str(python))
    text = "\n".join(script(tmp_path, setup=["set -euo pipefail", "export PYTHONPATH=/modules"]))
    environment = {"PATH": f"{commands}:/usr/bin:/bin", "SLURM_CPUS_PER_TASK": "1"}
    done = subprocess.run(["bash"], input=text, text=True, capture_output=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    path = f"{tmp_path}/code:/modules -m launch.clusters.slurm.requeue {tmp_path}"
    assert said.read_text().splitlines() == [f"{path} 20", path]
