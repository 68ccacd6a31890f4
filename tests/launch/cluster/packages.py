"""SLURM's programs, from Debian's packages."""

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/bin"])
_PACKAGE_OF = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "munged": "munge",
    "rsync": "rsync",  # for the snapshot of the code
}
_VERSION = "22.05"
"""Of Debian 12. Others name some settings differently, and do not start with a name that they do not know."""
_LIMIT = 240
"""Seconds for all of an installation; it takes twenty."""


class Unavailable(Exception):
    """Why there can be no cluster here, in one line."""


def need() -> None:
    """Makes sure that a cluster can be started here, and installs what is missing. Raises Unavailable."""
    if os.geteuid() != 0:
        raise Unavailable("a SLURM cluster can be started by root only")
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.mknod(Path(folder, "gpu"), stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError as error:
        raise Unavailable(
            f"a SLURM cluster needs device files for its GPUs, and this system makes none: {error}"
        ) from None
    if _missing():
        deadline = time.monotonic() + _LIMIT
        with _alone(deadline):
            if missing := _missing():  # another may have installed them before us
                _install(missing, deadline)
    shown = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, timeout=30, env={"PATH": PATH})
    if _VERSION not in shown.stdout:
        raise Unavailable(
            f"the cluster for tests is made for SLURM {_VERSION} (Debian 12); here is {shown.stdout.strip()}"
        )


def _missing() -> list[str]:
    return sorted({package for program, package in _PACKAGE_OF.items() if not shutil.which(program, path=PATH)})


@contextmanager
def _alone(deadline: float) -> Iterator[None]:
    """One at a time on this machine. The lock is on a directory of the system's, and leaves no file."""
    directory = os.open("/usr", os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(f"another installation of SLURM has not ended in {_LIMIT} s") from None
                time.sleep(0.2)
        yield
    finally:
        os.close(directory)


def _install(packages: list[str], deadline: float) -> None:
    if not shutil.which("apt-get", path=PATH):
        raise Unavailable(f"SLURM is not installed ({', '.join(packages)}), and there is no apt-get to do it")
    install = ["install", "-y", "--no-install-recommends", *packages]
    with _no_services():
        if _apt(install, deadline):  # the lists may be missing, or too old
            problem = _apt(["update"], deadline) or _apt(install, deadline)
            if problem:
                raise Unavailable(f"apt-get could not install {' '.join(packages)}: {problem}")


def _apt(arguments: list[str], deadline: float) -> str:
    """Empty, or what went wrong."""
    command = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", *arguments]
    environment = os.environ | {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    limit = max(1.0, deadline - time.monotonic())
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)
    except subprocess.TimeoutExpired:
        return f"not ended after {_LIMIT} s"
    return "" if done.returncode == 0 else (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1]


@contextmanager
def _no_services() -> Iterator[None]:
    """What is installed meanwhile starts no daemons: Debian asks this script before it starts one."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():  # as in images of containers, where it says no to all
        yield
        return
    policy.write_text("#!/bin/sh\n# For sivae's tests, while they install SLURM; remove it when none run.\nexit 101\n")
    try:
        policy.chmod(0o755)
        yield
    finally:
        policy.unlink()
