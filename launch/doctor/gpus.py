"""Driver and GPUs, and whether torch's wheel supports them."""

import os
import subprocess
from collections.abc import Iterator
from typing import Any

from launch.doctor.report import Finding

_GIB = 1 << 30


def examine_torch(facts: dict[str, Any]) -> Iterator[Finding]:
    """torch's build."""
    import torch

    built = torch.version.cuda
    facts |= {
        "torch": torch.__version__,
        "cuda": built,
        "cudnn": torch.backends.cudnn.version() if built else None,
        "architectures": torch.cuda.get_arch_list() or _built_for(),
        "nccl": list(torch.cuda.nccl.version()) if built and torch.distributed.is_nccl_available() else None,
        "backends": [name for name in ("gloo", "nccl", "mpi") if getattr(torch.distributed, f"is_{name}_available")()],
    }
    if built is None:
        yield Finding("warn", "torch", f"{torch.__version__} is built for CPUs only", "pip install torch (the default)")
        return
    nccl = ".".join(map(str, facts["nccl"])) if facts["nccl"] else "no"
    yield Finding(
        "ok", "torch", f"{torch.__version__}, CUDA {built}, {nccl} NCCL".replace(f"{nccl} NCCL", f"NCCL {nccl}")
    )
    if facts["architectures"]:
        yield Finding("ok", "built for", " ".join(facts["architectures"]))


def _built_for() -> list[str]:
    """The architectures that torch was compiled for, even without a GPU, when get_arch_list is empty."""
    import torch

    flags = torch._C._cuda_getArchFlags()
    return flags.split() if flags else []


def examine_gpus(facts: dict[str, Any]) -> Iterator[Finding]:
    import torch

    from sivae_dist.process.devices import driver_version, runs

    facts["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        yield from _none_usable(facts)
        return
    architectures = torch.cuda.get_arch_list()
    facts |= {"driver": driver_version(), "topology": _topology()}
    yield Finding("ok", "driver", facts["driver"] or "works, but its version is unknown")
    facts["gpus"] = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        capability = (properties.major, properties.minor)
        facts["gpus"].append(
            {
                "name": properties.name,
                "memory": total,
                "free": free,
                "capability": capability,
                "multiprocessors": properties.multi_processor_count,
            }
        )
        name, text = (
            f"GPU {index}",
            f"{properties.name}, {total / _GIB:.0f} GiB, compute capability {capability[0]}.{capability[1]}",
        )
        if not any(runs(name, *capability) for name in architectures):
            todo = "install a torch wheel that is built for it (see `built for`); this one cannot use it"
            yield Finding("fail", name, f"{text}: this torch wheel is not built for it", todo)
        elif free < 0.8 * total:
            todo = "see nvidia-smi for the programs that use it"
            yield Finding("warn", name, f"{text}, only {free / _GIB:.0f} GiB of it free", todo)
        else:
            yield Finding("ok", name, text)


def _none_usable(facts: dict[str, Any]) -> Iterator[Finding]:
    """The finding without a usable GPU: there is none, or the reason why it cannot be used."""
    from sivae_dist.process.devices import why_expected, why_no_gpu

    expected = why_expected()
    facts |= {"expected": expected, "reason": why_no_gpu()}
    if expected is None:
        yield Finding("ok", "GPUs", "none; training uses the CPU")
    else:
        reason, _, todo = facts["reason"].partition(": ")
        yield Finding("fail", "GPUs", f"{expected}, but none can be used: {reason}", todo)


def _topology() -> list[str]:
    """The connections between GPUs, as printed by nvidia-smi; empty if it fails."""
    try:
        done = subprocess.run(["nvidia-smi", "topo", "-m"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
