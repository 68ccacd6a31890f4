"""The device of a process: which devices there are, which one it takes, and why a GPU cannot be used.

One process takes one GPU. Which one follows from its rank among the processes of its node, whether a launcher shows
every process all GPUs of the node (`sivae train`, torchrun) or each its own (SLURM's --gpus-per-task).
"""

import ctypes
import os
import platform
import re
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

_DEV = Path("/dev")
_PROC = Path("/proc/driver/nvidia")

_OLDEST_DRIVER = {"11": 450, "12": 525, "13": 580}
"""By CUDA's major version: the oldest branch of the driver that runs it (NVIDIA's table of minor version
compatibility)."""

_RESERVED_INDICES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
_RESERVED_COUNTS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_TASK", "SLURM_GPUS_PER_NODE", "SLURM_GPUS")
_NONE_VISIBLE = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES by which people, and SLURM, hide all GPUs."""


def check_name(name: str) -> str:
    """ValueError unless this is `auto`, `cpu`, `cuda` or `cuda:N`."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise ValueError(f"{name!r} is not a device; it must be auto, cpu, cuda or cuda:N (such as cuda:0)")
    return name


class Place(NamedTuple):
    """The place of a process among those of its node."""

    local_rank: int = 0
    processes: int | None = 1
    """Number of processes on this node; None if unknown."""
    shared: bool = True
    """Whether all of them see the same GPUs."""

    @classmethod
    def from_environment(cls) -> "Place":
        """The place that a launcher's environment gives. Only our own is known to show every process the same GPUs."""
        env = os.environ
        if int(env.get("WORLD_SIZE", "1")) <= 1:
            return cls()
        of_node = env.get("LOCAL_WORLD_SIZE")
        return cls(int(env.get("LOCAL_RANK", "0")), int(of_node) if of_node else None, "SIVAE_LAUNCHER" in env)


def choose(name: str, gpus: int, place: Place) -> torch.device:
    """The device that `name` means for a process at `place` that sees `gpus` GPUs.

    ValueError when there is none for it. Whether each process of a foreign launcher has a GPU of its own can only be
    seen once all are there (refuse_shared).
    """
    kind, _, number = check_name(name).partition(":")
    if kind == "cpu" or (kind == "auto" and not gpus):
        return torch.device("cpu")
    if not gpus:
        raise ValueError(f"device={name}, but no GPU can be used here: {why_no_gpu()}; or set device=cpu")
    if number:
        if int(number) >= gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            why = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
            raise ValueError(f"device={name}, but only {_named(gpus)} can be seen here{why}")
        if (place.processes or 1) > 1:
            raise ValueError(
                f"device={name} is one GPU, and {place.processes} processes need one each: set --nproc 1, or "
                "device=cuda and choose GPUs by CUDA_VISIBLE_DEVICES"
            )
        return torch.device("cuda", int(number))
    if place.shared and (place.processes or 1) > gpus:
        raise ValueError(
            f"{place.processes} processes need a GPU each, and {'there is only 1' if gpus == 1 else f'only {gpus}'}: "
            f"set --nproc {gpus}, or device=cpu"
        )
    return torch.device("cuda", place.local_rank % gpus)


def _named(gpus: int) -> str:
    return "cuda:0" if gpus == 1 else f"cuda:0 to cuda:{gpus - 1}"


def pick_device(name: str, place: Place | None = None) -> torch.device:
    """This process's device, made the current one. ValueError when it is not there, or when `auto` would compute on
    the CPU although there is reason to expect a GPU. `place`: None for what a launcher has left in the environment.

    Libraries that choose a GPU by LOCAL_RANK (DeepSpeed) are led to the same one.
    """
    device = choose(name, usable_gpus(name), place or Place.from_environment())
    if device.type == "cuda":
        check_architecture(device)
        torch.cuda.set_device(device)
        os.environ["LOCAL_RANK"] = str(device.index)
    return device


def default_processes(name: str) -> int:
    """One per GPU; one for a GPU that is named, or on the CPU. ValueError as `pick_device`."""
    return usable_gpus(name) or 1 if name in ("auto", "cuda") else 1


def check_processes(name: str, processes: int) -> None:
    """Before `processes` processes are started on this machine: ValueError unless each finds its device."""
    choose(name, usable_gpus(name), Place(processes - 1, processes))


def usable_gpus(name: str) -> int:
    """GPUs that this process can use; 0 for a run on the CPU. ValueError when `auto` misses GPUs that are expected."""
    if check_name(name) == "cpu":
        return 0
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto" and not gpus and (reason := why_expected()):
        raise ValueError(f"{reason}, but none can be used: {why_no_gpu()}; or set device=cpu to use the CPU on purpose")
    return gpus


def why_expected() -> str | None:
    """The reason to expect a GPU here; None if there is none.

    A SLURM job is to use what it reserved, and nothing else of the node. Elsewhere, hiding all GPUs
    (CUDA_VISIBLE_DEVICES) asks for the CPU.
    """
    if (reserved := _reserved()) is not None:
        return f"this job reserved GPUs ({reserved})"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in _NONE_VISIBLE:
        return None
    if "SLURM_JOB_ID" in os.environ and not _may_open():
        return None
    found = installed()
    return f"this machine has NVIDIA GPUs ({found})" if found else None


def _reserved() -> str | None:
    env = os.environ
    if "SLURM_JOB_ID" not in env:
        return None
    for name in _RESERVED_INDICES:
        if env.get(name):
            return f"{name}={env[name]}"
    for name in _RESERVED_COUNTS:
        if env.get(name, "0").rpartition(":")[2] not in ("", "0"):
            return f"{name}={env[name]}"
    return None


def installed() -> str | None:
    """A sign of NVIDIA GPUs in this machine, whether or not they can be used."""
    for path in (*sorted(_DEV.glob("nvidia[0-9]*")), *sorted((_PROC / "gpus").glob("*"))):
        return str(path)
    listed = _nvidia_smi("-L")
    return f"nvidia-smi: {listed[0]}" if listed and listed[0].startswith("GPU ") else None


def _may_open() -> bool:
    """Whether any GPU's device file may be opened; SLURM withholds those that a job has not reserved."""
    for path in _DEV.glob("nvidia[0-9]*"):
        try:
            os.close(os.open(path, os.O_RDWR))
            return True
        except OSError:
            continue
    return False


def why_no_gpu() -> str:
    """Why torch can use no GPU here, and what to do about it, in one line."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if torch.version.cuda is None and torch.version.hip is None:
        return "this torch was built without CUDA: install one that was built with it (README)"
    if visible in _NONE_VISIBLE:
        return f"CUDA_VISIBLE_DEVICES={visible} hides all GPUs: unset it"
    version, found = driver_version(), installed()
    if version is None and found is None:
        return "there is no NVIDIA GPU, or no driver for it"
    cuda = torch.version.cuda or ""
    oldest = _OLDEST_DRIVER.get(cuda.split(".")[0])
    if version is not None and oldest is not None and int(version.split(".")[0]) < oldest:
        return (
            f"the NVIDIA driver {version} is too old for CUDA {cuda}, which needs {oldest} or newer: update the driver"
        )
    if not _loadable("libcuda.so.1"):
        return (
            "the driver's library libcuda.so.1 is missing; inside a container start it with GPUs (docker run --gpus "
            "all, apptainer --nv, NVIDIA_VISIBLE_DEVICES=all for enroot and pyxis), elsewhere install the driver"
        )
    if any(_DEV.glob("nvidia[0-9]*")) and not _may_open():
        return "the device files /dev/nvidia* may not be opened: reserve GPUs for this job, or ask for permission"
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible} names no GPU of this machine: correct it or unset it"
    return f"CUDA does not start ({_error_of_cuda()}): check whether nvidia-smi works, and run `sivae doctor`"


def _loadable(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _error_of_cuda() -> str:
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).strip().splitlines()[0].rstrip(".")
    return "no device"


def driver_version() -> str | None:
    """Version of the NVIDIA driver, like 580.65.06; None if there is none."""
    try:
        text = (_PROC / "version").read_text()
    except OSError:
        listed = _nvidia_smi("--query-gpu=driver_version", "--format=csv,noheader")
        text = listed[0] if listed else ""
    match = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", text)
    return match[1] if match else None


def _nvidia_smi(*arguments: str) -> list[str]:
    """The lines that nvidia-smi prints; none if it is missing, fails or hangs."""
    if (command := shutil.which("nvidia-smi")) is None:
        return []
    try:
        done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def check_architecture(device: torch.device) -> None:
    """ValueError when torch holds no code for this GPU."""
    major, minor = torch.cuda.get_device_capability(device)
    known = torch.cuda.get_arch_list()
    if known and not any(runs(architecture, major, minor) for architecture in known):
        raise ValueError(
            f"{device} ({torch.cuda.get_device_name(device)}, sm_{major}{minor}) is not one of the GPUs that this "
            f"torch was built for ({', '.join(known)}): install a torch that was built for it, or set device=cpu"
        )


def runs(architecture: str, major: int, minor: int) -> bool:
    """Machine code (sm_86) runs on GPUs of the same major version from its minor one on; compute_86 is compiled for
    any later one."""
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", architecture)
    if match is None:
        return False
    built = int(match[2]), int(match[3])
    return built <= (major, minor) and (match[1] == "compute" or built[0] == major)


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host, on the device; does not wait for it."""
    if device.type == "cuda":
        tensor = torch.empty_like(tensor, pin_memory=True).copy_(tensor)
    return tensor.to(device, non_blocking=True)


def device_model(device: torch.device) -> str:
    """The GPU's model as its driver names it, or `cpu`. The last bits of a run's values depend on it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def describe(device: torch.device) -> str:
    """A GPU's model and memory, or the CPU's model."""
    if device.type == "cuda":
        return f"{device_model(device)} ({torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB)"
    return f"CPU ({processor()})"


def hardware(models: Iterable[str], device: torch.device) -> dict[str, Any]:
    """The hardware of a run, for a checkpoint's manifest. `models`: of all processes, from `device_model`."""
    return {"type": device.type, "models": sorted(set(models))}


def moved(before: dict[str, Any] | None, now: dict[str, Any]) -> str | None:
    """A note on what changes when a run continues on other hardware than its checkpoint was made on; None if it is the
    same or unknown."""
    if before is None or before == now:
        return None
    if before["type"] != now["type"]:
        return (
            f"the checkpoint was made on {_names(before)} and this is {_names(now)}, where latents and noise are drawn "
            "differently: the run continues, but not as it would have"
        )
    return (
        f"the checkpoint was made on {_names(before)} and this is {_names(now)}: the run continues with the same "
        "draws, but not bit for bit"
    )


def _names(hardware: dict[str, Any]) -> str:
    return "a CPU" if hardware["type"] == "cpu" else " and ".join(hardware["models"])


def processor() -> str:
    """The CPU's model, as Linux has it; elsewhere its architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.machine()


def start_lines(devices: Sequence[str], precision: str, threads: int) -> tuple[str, str]:
    """Two lines: a run's devices, and how it computes. `devices` (from `describe`) and `threads` are per process."""
    several = len(devices) > 1
    what = ", ".join(f"{count} x {name}" if several else name for name, count in Counter(devices).items())
    work = f"{len(devices)} processes, " if several else ""
    work += f"{threads} thread{'s' if threads > 1 else ''}" + (" each" if several else "")
    how = f"precision {precision}, torch {torch.__version__}"
    if not all(name.startswith("CPU (") for name in devices):
        how += f", CUDA {torch.version.cuda}, driver {driver_version() or 'unknown'}"
    return f"on {what}: {work}", how


def gpu_of(device: torch.device) -> str:
    """Identifies a GPU and its machine, for `refuse_shared`; empty for the CPU, which all may share."""
    if device.type != "cuda":
        return ""
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return f"{uuid} of {socket.gethostname()}" if uuid is not None else ""


def refuse_shared(gpus: Sequence[str]) -> None:
    """ValueError when two processes have the same GPU. `gpus`: that of every process by rank, from `gpu_of`."""
    first: dict[str, int] = {}
    for rank, gpu in enumerate(gpus):
        if gpu and (other := first.setdefault(gpu, rank)) != rank:
            raise ValueError(
                f"processes {other} and {rank} have the same GPU ({gpu}): start no more processes than GPUs, with "
                "device=cuda; a launcher that binds GPUs to tasks must give each task its own"
            )
