"""Memory of the machine that this process may use, as the kernel accounts for it."""

import os
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")

_FILES = {
    "": ("", "memory.max", "memory.current", "inactive_file"),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By controller, as /proc/self/cgroup names it (version 2 has no name): where it is mounted, and its files and key."""


class HostMemory(NamedTuple):
    """Sizes in bytes."""

    total: int
    """Of the machine, or the smallest limit on this process's control groups (containers, SLURM's --mem)."""
    available: int
    """Of that, what is free or would be freed on demand."""


def host_memory() -> HostMemory:
    """The memory of this process together with all that share its machine and limits."""
    total, available = _of_machine()
    for limit, used in _of_groups():
        total, available = min(total, limit), min(available, max(0, limit - used))
    return HostMemory(total, available)


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = int((_PROC / "self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _of_machine() -> tuple[int, int]:
    lines = (line.split() for line in (_PROC / "meminfo").read_text().splitlines())
    values = {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
    return values["MemTotal"], values["MemAvailable"]


def _of_groups() -> list[tuple[int, int]]:
    """Limit and use of every control group above this process that has a limit."""
    found = []
    try:
        lines = (_PROC / "self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _FILES:
                mount, maximum, current, cached = _FILES[controller]
                base = _CGROUPS / mount
                group = base / path.lstrip("/")
                # Inside a container the path may be the host's, of which only the mount's root can be seen.
                for folder in (group, *(above for above in group.parents if above.is_relative_to(base))):
                    if (entry := _of_group(folder, maximum, current, cached)) is not None:
                        found.append(entry)
    return found


def _of_group(folder: Path, maximum: str, current: str, cached: str) -> tuple[int, int] | None:
    try:
        limit = (folder / maximum).read_text().strip()
        used = int((folder / current).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return int(limit), used - int(statistics.get(cached, 0))
