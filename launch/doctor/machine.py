"""Cores, memory and limits that this process may use on this machine."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch.doctor.report import Finding

CGROUPS = Path("/sys/fs/cgroup")
_GIB = 1 << 30


def cgroup_files(name: str, root: Path = CGROUPS) -> Iterator[str]:
    """Contents of a cgroup file (version 2, or its version 1 counterpart), from this process's group upwards."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        top = root if not controllers else root / controllers
        folder = top / place.lstrip("/")
        while True:
            try:
                yield (folder / name).read_text().strip()
            except OSError:
                pass
            if folder in (top, root) or folder == folder.parent:
                break
            folder = folder.parent


def cpu_quota() -> float | None:
    """Cores that the control group may use at once; None without a limit."""
    quotas = []
    for text in cgroup_files("cpu.max"):
        limit, _, period = text.partition(" ")
        if limit != "max":
            quotas.append(int(limit) / int(period or 100_000))
    for text in cgroup_files("cpu.cfs_quota_us"):
        if int(text) > 0:
            quotas.append(int(text) / 100_000)
    return min(quotas, default=None)


def memory_limit() -> int | None:
    """Bytes that the control group may use; None without a limit."""
    texts = [*cgroup_files("memory.max"), *cgroup_files("memory.limit_in_bytes")]
    limits = [int(text) for text in texts if text.isdigit() and int(text) < 1 << 60]
    return min(limits, default=None)


def cores() -> float:
    """Cores that this process may use, by affinity and by the control group's quota."""
    quota = cpu_quota()
    allowed = float(len(os.sched_getaffinity(0)))
    return allowed if quota is None else min(allowed, quota)


def examine_cores(facts: dict[str, Any]) -> Iterator[Finding]:
    here, allowed, quota = os.cpu_count() or 1, len(os.sched_getaffinity(0)), cpu_quota()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    facts |= {"cores": here, "affinity": allowed, "quota": quota, "OMP_NUM_THREADS": threads, "model": _model()}
    text = f"{here} in the machine, {allowed} allowed here"
    if quota is not None:
        text += f", limited to {quota:g} by the control group"
    usable = max(1, int(min(allowed, quota or allowed)))
    if quota is not None and quota < allowed and not threads:
        todo = f"export OMP_NUM_THREADS={usable}: one thread per allowed core would be throttled"
        yield Finding("warn", "cores", text, todo)
    elif threads.isdigit() and int(threads) > usable:
        todo = f"export OMP_NUM_THREADS={usable}, or unset it"
        yield Finding("warn", "cores", f"{text}; OMP_NUM_THREADS={threads} is more", todo)
    elif allowed < here // 8:
        todo = "under SLURM request more with --cpus-per-task; otherwise check taskset and docker's --cpus"
        yield Finding("warn", "cores", f"{text}: only a small part", todo)
    else:
        yield Finding("ok", "cores", text + (f"; OMP_NUM_THREADS={threads}" if threads else ""))


def _model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def examine_memory(facts: dict[str, Any]) -> Iterator[Finding]:
    words = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = {name.rstrip(":"): int(size) * 1024 for name, size, *_ in words}
    total, free, limit = sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemFree"]), memory_limit()
    facts |= {"total": total, "available": free, "limit": limit}
    text = f"{total / _GIB:.1f} GiB, {free / _GIB:.1f} available"
    if limit is not None and limit < total:
        text += f", limited to {limit / _GIB:.1f} by the control group"
    if min(free, limit or free) < 4 * _GIB:
        yield Finding("warn", "memory", text, "less than 4 GiB: close other programs, or request more (--mem)")
    else:
        yield Finding("ok", "memory", text)


def examine_shared_memory(facts: dict[str, Any], gpus: int) -> Iterator[Finding]:
    """/dev/shm, which NCCL uses between GPUs without a direct connection."""
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError as error:
        yield Finding("warn" if gpus > 1 else "ok", "/dev/shm", f"does not exist ({error.strerror})")
        return
    facts |= {"total": usage.total, "free": usage.free}
    text = f"{usage.total / _GIB:.2f} GiB, {usage.free / _GIB:.2f} free"
    if usage.free < gpus * (1 << 28) and gpus > 1:
        todo = "NCCL needs it between GPUs: docker run --shm-size=8g (or --ipc=host)"
        yield Finding("warn", "/dev/shm", text, todo)
    else:
        yield Finding("ok", "/dev/shm", text)


def examine_limits(facts: dict[str, Any]) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    facts |= {"open_files": soft, "open_files_at_most": hard}
    shown = "no limit" if soft == resource.RLIM_INFINITY else f"{soft:,} files may be open at once"
    if soft != resource.RLIM_INFINITY and soft < 1024:
        yield Finding("warn", "open files", shown, f"ulimit -n {hard if hard > 0 else 65536}")
    else:
        yield Finding("ok", "open files", shown)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    facts["locked_memory"] = locked
    if Path("/sys/class/infiniband").is_dir() and any(Path("/sys/class/infiniband").iterdir()):
        facts["infiniband"] = sorted(path.name for path in Path("/sys/class/infiniband").iterdir())
        if locked != resource.RLIM_INFINITY:
            text = f"InfiniBand was found, but only {locked:,} bytes of memory may be locked"
            yield Finding("warn", "InfiniBand", text, "ulimit -l unlimited; under SLURM PropagateResourceLimits")
        else:
            yield Finding("ok", "InfiniBand", ", ".join(facts["infiniband"]))
