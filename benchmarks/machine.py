"""What figures were measured on."""

import os
import platform
from pathlib import Path

INSTRUCTION_SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""Those that decide how fast a network is, the fastest first; amx_bf16 has matrix units for bf16."""


def machine() -> str:
    """Cores that may be used, and the processor's name."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} core{'s' * (cores > 1)} of {_of_processor('model name') or platform.machine()}"


def instruction_sets() -> list[str]:
    """Of `INSTRUCTION_SETS`, those that the processor has."""
    flags = _of_processor("flags").split()
    return [name for name in INSTRUCTION_SETS if name in flags]


def _of_processor(key: str) -> str:
    """What Linux says of the first one; empty where it does not."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
