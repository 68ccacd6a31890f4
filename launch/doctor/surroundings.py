"""The environment of the command: environment variables, host name, clock, and SLURM."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from typing import Any

from launch.doctor.report import Finding
from launch.environment import forget_launchers

_OVERRULING = {
    "NVIDIA_TF32_OVERRIDE": "it overrides engine.precision",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "it overrides engine.precision",
    "CUDA_LAUNCH_BLOCKING": "the host waits for every kernel, which is slow",
    "DS_ACCELERATOR": "it overrides the device of engine.name=zero",
}
"""Variables that affect a run, and their effects."""


def examine_environment(facts: dict[str, Any]) -> Iterator[Finding]:
    stale = sorted(forget_launchers(dict(os.environ)))
    others = [name for name in _OVERRULING if os.environ.get(name) not in (None, "", "0")]
    # Only names: values of variables may be secrets.
    facts |= {"launchers": stale, "overruling": others, "nccl": sorted(n for n in os.environ if n.startswith("NCCL_"))}
    if stale:
        text = f"{', '.join(stale)} are set by another launcher or left over; sivae train ignores them"
        yield Finding("warn", "environment", text, f"unset {' '.join(stale)} unless this image needs them")
    for name in others:
        yield Finding("warn", "environment", f"{name} is set: {_OVERRULING[name]}", f"unset {name}")
    if not stale and not others:
        yield Finding("ok", "environment", "no variable interferes with a run")


def examine_names(facts: dict[str, Any]) -> Iterator[Finding]:
    """Checks whether other machines can resolve this one's name."""
    name = socket.gethostname()
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError as error:
        text = f"this machine's own name does not resolve ({error.strerror or error})"
        yield Finding("warn", "host name", text, "add it to /etc/hosts; until then set GLOO_SOCKET_IFNAME=lo")
        return
    local = [address for address in found if address.startswith("127.") or address == "::1"]
    facts["only_loopback"] = len(local) == len(found)
    if facts["only_loopback"]:
        text = f"this machine's own name resolves to {', '.join(local)}, which only it can reach"
        todo = (
            "fine on one machine; for several, remove the line from /etc/hosts or set GLOO_SOCKET_IFNAME and "
            "NCCL_SOCKET_IFNAME"
        )
        yield Finding("warn" if shutil.which("sbatch") else "ok", "host name", text, todo)
    else:
        yield Finding("ok", "host name", "resolves to an address that other machines can reach")


def examine_clock(facts: dict[str, Any]) -> Iterator[Finding]:
    facts |= {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "zone": time.strftime("%z")}
    if time.gmtime().tm_year < 2025:
        todo = "set the clock (timedatectl set-ntp true): certificates and file times depend on it"
        yield Finding("fail", "clock", f"says {facts['utc']}", todo)
    else:
        yield Finding("ok", "clock", facts["utc"])


def examine_slurm(facts: dict[str, Any]) -> Iterator[Finding]:
    sbatch = shutil.which("sbatch")
    facts["sbatch"] = sbatch
    if sbatch is None:
        yield Finding("ok", "SLURM", "not here; `sivae submit --cluster local` runs on this machine")
        return
    try:
        facts["version"] = _ask("sbatch", "--version")
        facts["partitions"] = [line.split() for line in _ask("sinfo", "-h", "-o", "%P %a %l %D %G").splitlines()]
    except (OSError, subprocess.SubprocessError) as error:
        words = getattr(error, "stderr", "") or str(error)
        todo = "to submit jobs from here, check that the controller is up (scontrol ping) and SLURM_CONF is right"
        yield Finding(
            "warn", "SLURM", f"sbatch is here but does not answer: {' '.join(str(words).split())[:200]}", todo
        )
        return
    yield Finding("ok", "SLURM", f"{facts['version']}, {len(facts['partitions'])} partitions")
    down = [words[0] for words in facts["partitions"] if words[1] != "up"]
    if down:
        yield Finding("warn", "partitions", f"{', '.join(down)}: not up", "choose another with --partition")
    gpus = [words[0] for words in facts["partitions"] if "gpu" in words[-1]]
    if gpus:
        yield Finding("ok", "partitions", f"with GPUs: {', '.join(dict.fromkeys(gpus))}")


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    return done.stdout.strip()
