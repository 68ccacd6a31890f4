"""What `sivae doctor` says of a machine, with machines that are not this one put in its place."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from launch.doctor import gpus, machine, packages, report, storage, surroundings
from launch.doctor.report import Finding, Report
from launch.environment import forget_launchers


def levels(findings: Iterator[Finding]) -> dict[str, tuple[str, str, str]]:
    """By name: level, detail and what to do; the worst of several."""
    order = {"ok": 0, "warn": 1, "fail": 2}
    found: dict[str, tuple[str, str, str]] = {}
    for finding in findings:
        if finding.name not in found or order[finding.level] > order[found[finding.name][0]]:
            found[finding.name] = (finding.level, finding.detail, finding.todo)
    return found


# The report.


def test_an_error_in_a_check_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    made = Report()

    def broken() -> Iterator[Finding]:
        yield Finding("ok", "first", "fine")
        raise ZeroDivisionError("a library\nfell over")

    made.check("second", broken)
    assert [finding.level for finding in made.findings] == ["ok", "fail"]
    assert "ZeroDivisionError: a library fell over" in capsys.readouterr().out.replace("\n" + " " * 19, " ")


def test_lines_fit_eighty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    Report().add(Finding("fail", "file system", "word " * 60, "do " * 60))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 4 and max(map(len, lines)) <= 80


def test_a_slow_check_says_that_it_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_HEARTBEAT", 0.05)

    def slow() -> Iterator[Finding]:
        end = time.monotonic() + 60
        while "slow: running for" not in capsys.readouterr().out:
            assert time.monotonic() < end
            time.sleep(0.01)
        yield Finding("ok", "slow", "done")

    (finding,) = Report().check("slow", slow)
    assert finding.level == "ok", finding.detail


def test_the_report_holds_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/jdoe")
    monkeypatch.setattr("getpass.getuser", lambda: "jdoe")
    monkeypatch.setattr(socket, "gethostname", lambda: "lab7")
    monkeypatch.setenv("WANDB_API_KEY", "deadbeef00")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    made = Report()
    made.facts["path"] = ["/home/jdoe/runs", "/scratch/jdoe/x", "http://me:pw@proxy:3128/", "lab7 and lab71"]
    made.check("environment", lambda: surroundings.examine_environment(made.facts.setdefault("environment", {})))
    text = made.write(tmp_path / "doctor.json", {}).read_text()
    assert json.loads(text)["facts"]["path"] == [
        "~/runs", "/scratch/USER/x", "http://***@proxy:3128/", "HOST and lab71",
    ]  # fmt: skip
    assert "deadbeef" not in text and "INFO" not in text and "NCCL_DEBUG" in text


def test_the_report_goes_elsewhere_when_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "file").touch()
    written = Report().write(tmp_path / "file" / "doctor.json", {})
    assert written == tmp_path / "sivae-doctor.json" and json.loads(written.read_text())["findings"]


# Packages.


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "aborts": "import os; os.abort()",
        "leaves": "import sys; sys.exit(3)",
        "lacks": "import not_there_at_all",
        "hangs": "import time; time.sleep(60)",
        "works": "print('noise')",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("modules")
def test_broken_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_PATIENCE", 15.0)  # which the one that hangs takes in full
    reasons = packages.import_each(["works", "lacks", "aborts", "leaves", "hangs", "json"])
    assert reasons["works"] == reasons["json"] == ""
    assert reasons["lacks"] == "ModuleNotFoundError: No module named 'not_there_at_all'"
    assert "signal 6" in reasons["aborts"] and "signal 9" in reasons["hangs"]
    assert reasons["leaves"] == "SystemExit: 3"


@pytest.mark.usefixtures("modules")
def test_packages_that_miss_are_old_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        packages,
        "requirements",
        lambda: {"": ["numpy>=2", "works>=2", "aborts", "nowhere>=1"], "s3": ["nowhere-else>=1"], "dev": ["pytest"]},
    )
    versions = {"numpy": "2.1", "works": "1.9", "aborts": "1.0"}
    monkeypatch.setattr(packages, "_installed", versions.get)
    found = levels(packages.examine_packages({}))
    assert found["works"] == ("fail", "1.9 is installed, but >=2 is needed", "pip install 'works>=2'")
    assert found["aborts"][0] == "fail" and "signal 6" in found["aborts"][1]
    assert found["nowhere"] == ("fail", "is missing", "pip install 'nowhere>=1'")
    assert found["extra s3"][::2] == ("ok", "pip install nowhere-else if you need it")
    assert found["packages"][1].startswith("1 required package(s) can be imported")


def test_requirements_are_the_projects() -> None:
    found = packages.requirements()
    assert any(line.startswith("torch>=") for line in found[""]) and found["dali"]


# GPUs.


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(index: int) -> Any:
        name, major = (("NVIDIA A100", 8), ("Tesla K80", 3))[index]
        return SimpleNamespace(name=name, major=major, minor=0, multi_processor_count=108)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 << 30, 40 << 30))
    monkeypatch.setattr("sivae_dist.process.devices.driver_version", lambda: "580.65.06")
    monkeypatch.setattr(gpus, "_topology", list)


@pytest.mark.usefixtures("two_gpus")
def test_gpus_are_judged() -> None:
    facts: dict[str, Any] = {}
    found = levels(gpus.examine_gpus(facts))
    assert found["driver"][1] == "580.65.06"
    assert found["GPU 0"][0] == "warn" and "only 10 GiB of it free" in found["GPU 0"][1]
    assert found["GPU 1"][0] == "fail" and "3.0: this torch wheel is not built for it" in found["GPU 1"][1]
    assert [gpu["name"] for gpu in facts["gpus"]] == ["NVIDIA A100", "Tesla K80"]


def test_gpus_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sivae_dist.process.devices.why_expected", lambda: "this machine has NVIDIA GPUs (/dev/nvidia0)"
    )
    monkeypatch.setattr(
        "sivae_dist.process.devices.why_no_gpu", lambda: "the NVIDIA driver 535.54 is too old: update the driver"
    )
    level, detail, todo = levels(gpus.examine_gpus({}))["GPUs"]
    assert level == "fail" and "535.54 is too old" in detail and todo == "update the driver"


# The machine.


def test_quotas_of_control_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{3 << 30}\n")
    real = machine.cgroup_files
    monkeypatch.setattr(machine, "cgroup_files", lambda name: real(name, tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert machine.cores() == 1.5 and machine.memory_limit() == 3 << 30
    level, detail, todo = levels(machine.examine_cores({}))["cores"]
    assert level == "warn" and "limited to 1.5 by the control group" in detail and "OMP_NUM_THREADS=1:" in todo
    assert levels(machine.examine_memory({}))["memory"][0] == "warn"


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    level, detail, _ = levels(machine.examine_cores({}))["cores"]
    assert level == "warn" and "OMP_NUM_THREADS=4096 is more" in detail


def test_shared_memory_matters_for_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=1 << 26, free=1 << 26))
    assert levels(machine.examine_shared_memory({}, 0))["/dev/shm"][0] == "ok"
    level, _, todo = levels(machine.examine_shared_memory({}, 8))["/dev/shm"]
    assert level == "warn" and "--shm-size" in todo


def test_few_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda kind: (256, 4096))
    assert levels(machine.examine_limits({}))["open files"] == (
        "warn", "256 files may be open at once", "ulimit -n 4096",
    )  # fmt: skip


# Surroundings.


def test_stale_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in forget_launchers(dict(os.environ)):
        monkeypatch.delenv(name)
    assert levels(surroundings.examine_environment({}))["environment"][0] == "ok"
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("MASTER_ADDR", "node1")
    level, detail, todo = levels(surroundings.examine_environment({}))["environment"]
    assert level == "warn" and "node1" not in detail and todo.startswith("unset MASTER_ADDR WORLD_SIZE")


def test_variables_that_overrule_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    level, detail, _ = levels(surroundings.examine_environment({}))["environment"]
    assert level == "warn" and "engine.precision" in detail


def test_names_that_mean_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def at(*addresses: str) -> None:
        answers = [(0, 0, 0, "", (address, 0)) for address in addresses]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answers)

    at("127.0.1.1")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert levels(surroundings.examine_names({}))["host name"][0] == "warn"
    monkeypatch.setattr("shutil.which", lambda name: None)
    level, _, todo = levels(surroundings.examine_names({}))["host name"]
    assert level == "ok" and "NCCL_SOCKET_IFNAME" in todo
    at("127.0.1.1", "10.0.0.7")
    assert "other machines can reach" in levels(surroundings.examine_names({}))["host name"][1]


def test_slurm_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, script in {
        "sbatch": "echo slurm 24.11.5",
        "sinfo": "echo 'gpu* up 1-00:00:00 4 gpu:h100:8'; echo 'old down infinite 2 (null)'",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    facts: dict[str, Any] = {}
    found = levels(surroundings.examine_slurm(facts))
    assert found["SLURM"][:2] == ("ok", "slurm 24.11.5, 2 partitions")
    assert found["partitions"][0] == "warn" and found["partitions"][1].startswith("old")
    (tmp_path / "sinfo").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    level, detail, _ = levels(surroundings.examine_slurm({}))["SLURM"]
    assert level == "warn" and "Unable to contact" in detail


# Files.


def test_a_folder_that_works_and_is_left_as_it_was(tmp_path: Path) -> None:
    found = levels(storage.examine_folder({}, tmp_path / "runs"))
    assert found["file system"][0] == "ok" and "rename, lock, mmap" in found["file system"][1]
    assert not list(tmp_path.iterdir())


def test_locks_that_do_not_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_LOCK", "pass")  # as mounted with nolock: the other process gets it
    level, detail, _ = levels(storage.examine_folder({}, tmp_path))["file system"]
    assert level == "fail" and "two commands could train the same run" in detail


def test_a_folder_without_room_or_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(total=10**9, free=10**8))
    found = levels(storage.examine_folder({}, tmp_path))
    assert found["disk"][0] == "warn"
    assert found["file system"][0] == "fail" and "Permission denied" in found["file system"][1]


def test_weights_that_are_missing_or_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sivae_dist.evaluation.extractors.weights import INCEPTION

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    level, _, todo = levels(storage.examine_weights({}))["weights"]
    assert level == "warn" and INCEPTION.name in todo and str(tmp_path) in todo
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / INCEPTION.name).write_bytes(b"an error page")
    assert levels(storage.examine_weights({}))["weights"][0] == "fail"


def test_it_works_without_torch(tmp_path: Path) -> None:
    """A torch that cannot be imported is a line like any other."""
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    code = (
        "import sys; from launch.doctor.report import Report; from launch.doctor import command, packages\n"
        "packages.requirements = lambda: {'': ['torch>=2']}\n"
        "r = Report(); command.look(r); command.self_test(r); sys.exit(7 * bool(r.count('fail')))"
    )
    root = Path(__file__).resolve().parents[3]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 7, done.stderr
    assert "libcudart.so.13" in done.stdout and "ok    clock" in done.stdout and "Traceback" not in done.stdout
