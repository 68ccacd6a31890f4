"""The choice of a device, by a stand-in for what torch and the machine say of GPUs."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.distributed import HashStore

from launch import demo
from sivae_dist.process import devices, processes
from sivae_dist.process.devices import Place, check_processes, choose, default_processes, pick_device
from sivae_dist.process.processes import everyones

CPU = torch.device("cpu")
_ENVIRONMENT = ("CUDA_VISIBLE_DEVICES", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "SIVAE_LAUNCHER")


class Machine:
    """What the functions under test look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self._monkeypatch, self.folder = monkeypatch, folder
        (folder / "dev").mkdir()
        (folder / "proc").mkdir()
        monkeypatch.setattr(devices, "_DEV", folder / "dev")
        monkeypatch.setattr(devices, "_PROC", folder / "proc")
        monkeypatch.setattr(devices.shutil, "which", lambda name: None)
        monkeypatch.setattr(devices, "_loadable", lambda library: True)
        for name in list(os.environ):
            if name in _ENVIRONMENT or name.startswith("SLURM_"):
                monkeypatch.delenv(name)
        self.environment(WORLD_SIZE="1", LOCAL_RANK="0")  # what a test leaves in it is taken back
        self.torch_sees(0)

    def environment(self, **values: str) -> None:
        for name, value in values.items():
            self._monkeypatch.setenv(name, value)

    def torch_sees(self, gpus: int, capability: tuple[int, int] = (9, 0)) -> list[torch.device]:
        """Gives the devices that are made the current one from here on."""
        made_current: list[torch.device] = []
        for name, function in {
            "device_count": lambda: gpus,
            "is_available": lambda: gpus > 0,
            "set_device": made_current.append,
            "get_device_capability": lambda device: capability,
            "get_arch_list": lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"],
            "get_device_name": lambda device: "NVIDIA H100 80GB HBM3",
            "get_device_properties": lambda device: SimpleNamespace(total_memory=80 << 30, uuid=f"GPU-{device.index}"),
        }.items():
            self._monkeypatch.setattr(torch.cuda, name, function)
        return made_current

    def has_device_file(self) -> None:
        (self.folder / "dev" / "nvidia0").touch()

    def has_driver(self, version: str) -> None:
        text = f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Jun 3 00:00:00 UTC 2025\nGCC version:\n"
        (self.folder / "proc" / "version").write_text(text)

    def lists(self, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
        """nvidia-smi is there and prints this."""
        done = subprocess.CompletedProcess([], 0, stdout=f"{line}\n")
        monkeypatch.setattr(devices.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
        monkeypatch.setattr(devices.subprocess, "run", lambda *arguments, **options: done)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def test_without_gpus_auto_is_the_cpu(machine: Machine) -> None:
    assert pick_device("auto") == CPU
    assert default_processes("auto") == default_processes("cpu") == 1
    check_processes("auto", 4)
    with pytest.raises(ValueError, match=r"no GPU can be used here.* or set device=cpu"):
        check_processes("cuda", 1)


def test_eight_gpus_for_eight_processes(machine: Machine) -> None:
    current = machine.torch_sees(8)
    assert default_processes("auto") == default_processes("cuda") == 8
    assert default_processes("cuda:3") == default_processes("cpu") == 1
    machine.environment(WORLD_SIZE="8", LOCAL_WORLD_SIZE="8", SIVAE_LAUNCHER="1")
    for rank in range(8):
        machine.environment(LOCAL_RANK=str(rank))
        assert pick_device("auto") == torch.device("cuda", rank)
    assert current == [torch.device("cuda", rank) for rank in range(8)]
    assert pick_device("cpu") == CPU


def test_one_gpu_is_not_for_two_processes(machine: Machine) -> None:
    machine.torch_sees(1)
    check_processes("auto", 1)
    check_processes("cpu", 2)
    with pytest.raises(ValueError, match=r"2 processes need a GPU each.* only 1: set --nproc 1, or device=cpu"):
        check_processes("auto", 2)
    machine.environment(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", LOCAL_RANK="1", SIVAE_LAUNCHER="1")
    with pytest.raises(ValueError, match="--nproc 1"):
        pick_device("cuda")


def test_a_gpu_that_is_named(machine: Machine) -> None:
    machine.torch_sees(4)
    assert pick_device("cuda:3") == torch.device("cuda", 3)
    assert os.environ["LOCAL_RANK"] == "3"  # DeepSpeed goes there
    with pytest.raises(ValueError, match=r"only cuda:0 to cuda:3 can be seen here$"):
        pick_device("cuda:4")
    machine.environment(CUDA_VISIBLE_DEVICES="4,5,6,7")
    with pytest.raises(ValueError, match=r"only cuda:0 to cuda:3 can be seen here \(CUDA_VISIBLE_DEVICES=4,5,6,7\)"):
        pick_device("cuda:5")
    with pytest.raises(ValueError, match="one GPU, and 2 processes need one each: set --nproc 1"):
        check_processes("cuda:3", 2)
    # One process a node, each on its GPU 3.
    assert choose("cuda:3", 4, Place(0, 1)) == torch.device("cuda", 3)


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "mps", ""])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="is not a device; it must be auto, cpu, cuda or cuda:N"):
        choose(name, 8, Place())


def test_a_launcher_that_binds_one_gpu_to_each_task(machine: Machine) -> None:
    """Every task sees its own as number 0."""
    machine.torch_sees(1)
    machine.environment(WORLD_SIZE="8", LOCAL_RANK="7", SLURM_JOB_ID="1", SLURM_GPUS_PER_TASK="1")
    assert pick_device("auto") == torch.device("cuda", 0)
    assert os.environ["LOCAL_RANK"] == "0"


def test_two_gpus_bound_to_each_task(machine: Machine) -> None:
    machine.torch_sees(2)
    assert [choose("cuda", 2, Place(rank, None, shared=False)).index for rank in range(4)] == [0, 1, 0, 1]


def test_processes_that_share_a_gpu_find_out(machine: Machine) -> None:
    machine.torch_sees(2)
    gpus = [devices.gpu_of(torch.device("cuda", rank % 2)) for rank in range(3)]
    assert devices.gpu_of(CPU) == ""
    devices.refuse_shared([*gpus[:2], "", ""])
    with pytest.raises(ValueError, match=r"processes 0 and 2 have the same GPU .GPU-0 of "):
        devices.refuse_shared(gpus)


def test_everyone_learns_what_everyone_says() -> None:
    store = HashStore()
    with ThreadPoolExecutor(3) as pool:
        heard = list(pool.map(lambda rank: everyones(store, rank, 3, f"of {rank}"), range(3)))
    assert heard == [["of 0", "of 1", "of 2"]] * 3


@pytest.mark.parametrize("device", [CPU, torch.device("cuda", 5)])
def test_what_the_group_is_made_of(machine: Machine, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    """NCCL is bound to the process's GPU; gloo serves what is on the host."""
    from datetime import timedelta

    machine.torch_sees(8)
    machine.environment(WORLD_SIZE="2")
    made: list[tuple[object, dict[str, object]]] = []
    monkeypatch.setattr(processes.dist, "init_process_group", lambda backend, **rest: made.append((backend, rest)))
    store = HashStore()
    store.set("sivae/0", "another GPU")
    monkeypatch.setattr(processes.dist, "rendezvous", lambda url, timeout: iter([(store, 1, 2)]))
    patience = timedelta(seconds=77)
    processes.join(device, patience)
    ((backend, rest),) = made
    assert rest["timeout"] == patience
    if device == CPU:
        assert backend == "gloo" and "device_id" not in rest
    else:
        assert backend == "cpu:gloo,cuda:nccl"
        assert (rest["device_id"], rest["rank"], rest["world_size"]) == (device, 1, 2)
        store.set("sivae/0", devices.gpu_of(device))
        with pytest.raises(ValueError, match="processes 0 and 1 have the same GPU"):
            processes.join(device, patience)


# Training on the CPU without a word.


def test_gpus_that_torch_does_not_see_are_not_passed_over(machine: Machine) -> None:
    machine.has_device_file()
    for call in (lambda: pick_device("auto"), lambda: check_processes("auto", 2), lambda: default_processes("auto")):
        with pytest.raises(ValueError, match=r"this machine has NVIDIA GPUs .*nvidia0.* or set device=cpu"):
            call()
    assert pick_device("cpu") == CPU


def test_gpus_that_only_nvidia_smi_knows(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.lists(monkeypatch, "GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1)")
    with pytest.raises(ValueError, match="nvidia-smi: GPU 0: NVIDIA GeForce RTX 4090"):
        pick_device("auto")
    machine.lists(monkeypatch, "No devices found.")
    assert pick_device("auto") == CPU


@pytest.mark.parametrize("value", ["", "-1"])
def test_gpus_hidden_on_purpose(machine: Machine, value: str) -> None:
    machine.has_device_file()
    machine.environment(CUDA_VISIBLE_DEVICES=value)
    assert pick_device("auto") == CPU
    with pytest.raises(ValueError, match=f"CUDA_VISIBLE_DEVICES={value} hides all GPUs"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_JOB_GPUS", "0"), ("SLURM_GPUS_ON_NODE", "8"), ("SLURM_GPUS_PER_NODE", "h100:4")]
)
def test_a_job_that_reserved_gpus_means_them(machine: Machine, name: str, value: str) -> None:
    machine.environment(**{name: value})
    assert pick_device("auto") == CPU  # left over from somewhere: this is no job
    machine.environment(SLURM_JOB_ID="7")
    with pytest.raises(ValueError, match=f"this job reserved GPUs .{name}={value}.*set device=cpu"):
        pick_device("auto")


@pytest.mark.parametrize(("may_open", "refused"), [(False, False), (True, True)])
def test_a_job_that_reserved_none(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, may_open: bool, refused: bool
) -> None:
    """SLURM withholds the GPUs of the node from it, and the CPU is what it wants; unless SLURM does not look after
    GPUs at all."""
    machine.has_device_file()
    machine.environment(SLURM_JOB_ID="7", SLURM_GPUS_ON_NODE="0")
    monkeypatch.setattr(devices, "_may_open", lambda: may_open)
    if not refused:
        assert pick_device("auto") == CPU
        return
    with pytest.raises(ValueError, match="this machine has NVIDIA GPUs"):
        pick_device("auto")


def test_the_reason_names_what_to_do(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "no NVIDIA GPU" in devices.why_no_gpu()
    machine.has_device_file()
    machine.has_driver("550.54.15")
    assert devices.driver_version() == "550.54.15"
    assert "driver 550.54.15 is too old for CUDA 13.0, which needs 580 or newer" in devices.why_no_gpu()
    machine.has_driver("580.65.06")
    monkeypatch.setattr(torch.cuda, "init", lambda: (_ for _ in ()).throw(RuntimeError("Error 802: not yet\nmore")))
    assert "CUDA does not start (Error 802: not yet)" in devices.why_no_gpu()
    machine.environment(CUDA_VISIBLE_DEVICES="7")
    assert "CUDA_VISIBLE_DEVICES=7 names no GPU" in devices.why_no_gpu()
    monkeypatch.setattr(devices, "_may_open", lambda: False)
    assert "may not be opened" in devices.why_no_gpu()
    monkeypatch.setattr(devices, "_loadable", lambda library: False)
    assert "docker run --gpus all, apptainer --nv, NVIDIA_VISIBLE_DEVICES=all" in devices.why_no_gpu()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in devices.why_no_gpu()


@pytest.mark.parametrize(
    ("capability", "runs"), [((7, 0), False), ((7, 5), True), ((8, 9), True), ((9, 0), True), ((11, 0), False)]
)
def test_a_gpu_that_torch_has_no_code_for(machine: Machine, capability: tuple[int, int], runs: bool) -> None:
    machine.torch_sees(1, capability)
    if runs:
        assert pick_device("auto") == torch.device("cuda", 0)
        return
    with pytest.raises(ValueError, match=r"cuda:0 \(NVIDIA H100 80GB HBM3, sm_\d+\) is not one of the GPUs.*sm_75"):
        pick_device("auto")


def test_the_start_says_what_a_run_works_on(machine: Machine) -> None:
    assert devices.describe(CPU).startswith("CPU (")
    what, how = devices.start_lines([devices.describe(CPU)], "fp32", 1)
    assert what.startswith("on CPU (") and what.endswith("): 1 thread")
    assert how == f"precision fp32, torch {torch.__version__}"
    machine.torch_sees(2)
    machine.has_driver("580.65.06")
    gpus = [devices.describe(torch.device("cuda", rank)) for rank in range(2)]
    what, how = devices.start_lines(gpus, "tf32", 4)
    assert what == "on 2 x NVIDIA H100 80GB HBM3 (80 GiB): 2 processes, 4 threads each"
    assert how.startswith("precision tf32, torch ") and how.endswith(", driver 580.65.06")


@pytest.mark.parametrize(("gpus", "processes"), [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_the_demo_takes_as_many_processes_as_there_are_gpus_for(machine: Machine, gpus: int, processes: int) -> None:
    machine.torch_sees(gpus)
    assert demo.place() == ("auto", processes)
    check_processes("auto", processes)


def test_the_demo_runs_on_the_cpu_where_gpus_cannot_be_used(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.torch_sees(2, (7, 0))
    assert demo.place() == ("cpu", 2)
    assert "sm_70" in capsys.readouterr().out
    machine.torch_sees(0)
    machine.has_device_file()
    assert demo.place() == ("cpu", 2)
    assert "this machine has NVIDIA GPUs" in capsys.readouterr().out


def test_a_command_alone_does_not_look_for_a_launcher(machine: Machine) -> None:
    """Kubernetes' PyTorchJob sets these in every container."""
    machine.torch_sees(8)
    machine.environment(WORLD_SIZE="8", LOCAL_WORLD_SIZE="8", LOCAL_RANK="5")
    assert pick_device("cuda:3", Place()) == torch.device("cuda", 3)
    assert pick_device("auto", Place()) == torch.device("cuda", 0)
