"""Compiles kernels.cpp, once for each machine and release, and loads it."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-shared", "-fopenmp", "-Wno-psabi")
_SECONDS = 120


def usable() -> bool:
    """Whether there are kernels here; compiles them if that has not been done."""
    return not isinstance(_library(), str)


def why_not() -> str:
    """What keeps the kernels from being compiled or loaded, for a person; empty when nothing does."""
    found = _library()
    return found if isinstance(found, str) else ""


def function(name: str, dtype: torch.dtype) -> "ctypes._NamedFuncPointer":
    """One of the kernels for a type of maps. RuntimeError when there are none."""
    found = _library()
    if isinstance(found, str):
        raise RuntimeError(found)
    return getattr(found, f"{name}_{str(dtype).removeprefix('torch.')}")


@cache
def _library() -> ctypes.CDLL | str:
    """The loaded kernels, or why there are none."""
    compiler = next(
        (path for name in (os.environ.get("CXX"), "g++", "clang++") if name and (path := shutil.which(name))), None
    )
    if compiler is None:
        return "there is no C++ compiler (g++ or clang++)"
    target = _folder() / f"kernels-{_key(compiler)}.so"
    if not target.exists():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                made = Path(folder, "kernels.so")
                command = [compiler, *_FLAGS, "-o", str(made), str(SOURCE)]
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=_SECONDS)
                made.replace(target)  # whole or not at all, whoever else compiles it
        except subprocess.CalledProcessError as error:
            return f"{compiler} cannot compile the layers' kernels: {error.stderr.strip().splitlines()[:1]}"
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"the layers' kernels cannot be compiled: {error}"
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        return f"the layers' kernels cannot be loaded: {error}"


def _folder() -> Path:
    """Where users' caches are."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sivae")


def _key(compiler: str) -> str:
    """Differs wherever the compiled file would."""
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False
    ).stdout
    content = [SOURCE.read_text(), " ".join(_FLAGS), version, platform.machine(), _processor()]
    return hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]


def _processor() -> str:
    """What `native` stands for."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags"))
