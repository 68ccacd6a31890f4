"""Checks the versions of installed packages, and that each can be imported."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from launch.doctor.report import Finding
from sivae_dist import __version__

_MODULES = {
    "nvidia-dali-cuda130": "nvidia.dali",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
"""Modules of distributions whose names differ."""

_NAMED = frozenset({"deepspeed", "simplejpeg", "submitit", "torch", "torch-fidelity", "webdataset"})
"""Distributions whose versions are shown; all are in the JSON."""

_MARK = "\x1e"
_SCRIPT = f"""
import importlib, json, sys
for name in sys.argv[1:]:
    print({_MARK!r} + json.dumps([name, "begun"]), flush=True)
    try:
        importlib.import_module(name)
        word = ""
    except BaseException as error:
        word = f"{{type(error).__name__}}: {{error}}"
    print({_MARK!r} + json.dumps([name, word]), flush=True)
"""
_PATIENCE = 120.0
"""Timeout in seconds for all imports of one process."""


def requirements() -> dict[str, list[str]]:
    """Requirement lines by extra (`` for required packages) of the installed package, or else of pyproject.toml.

    Empty when neither exists.
    """
    try:
        lines = metadata.requires("sivae") or []
    except metadata.PackageNotFoundError:
        import tomllib

        try:
            project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        except (OSError, ValueError, KeyError):
            return {}
        return {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {"": []}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = marker.partition("extra ==")[2].strip(" '\"")
        found.setdefault(extra, []).append(requirement.strip())
    return found


def import_each(modules: Sequence[str]) -> dict[str, str]:
    """Import errors by module, empty for success. Imports in another process, which a broken library may crash."""
    results: dict[str, str] = {}
    while todo := [name for name in modules if name not in results]:
        before = len(results)
        current, reason = _import(todo, results)
        if current is not None:
            results[current] = reason
        elif len(results) == before:  # the process did not even begin
            return results | dict.fromkeys(todo, f"python did not start: {reason}")
    return results


def _import(modules: Sequence[str], results: dict[str, str]) -> tuple[str | None, str]:
    """Records in `results` what one process could import; returns the module in which it crashed, if any, and how."""
    current = None
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, *modules], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        late = threading.Timer(_PATIENCE, process.kill)
        late.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(_MARK):
                    name, word = json.loads(line[1:])
                    current = name if word == "begun" else None
                    if word != "begun":
                        results[name] = word
            code = process.wait()
        finally:
            late.cancel()
            process.kill()
            process.wait()
        errors.seek(0)
        last = errors.read()[-300:].decode(errors="replace").strip().splitlines()[-1:]
    ended = f"the process was killed by signal {-code}" if code < 0 else f"the process exited with code {code}"
    return current, ": ".join([ended, *last])


def examine_python(facts: dict[str, Any]) -> Iterator[Finding]:
    name = "python"
    facts |= {
        "sivae": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "executable": sys.executable,
        "virtual_environment": sys.prefix != sys.base_prefix,
    }
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.system()
    facts["distribution"] = system
    text = f"{facts['python']} on {system} ({facts['machine']}), sivae {facts['sivae']}"
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        yield Finding("warn", name, text, "only Linux on x86_64 has been tested")
    else:
        yield Finding("ok", name, text)


def examine_packages(facts: dict[str, Any], modules_only: Sequence[str] | None = None) -> Iterator[Finding]:
    """`modules_only`: import only these; None for all."""
    from packaging.requirements import Requirement

    wanted = {extra: lines for extra, lines in requirements().items() if extra != "dev"}
    if not wanted:
        yield Finding("warn", "packages", "the requirements of sivae are not recorded here", "install it with pip")
        return
    needed = {extra: [Requirement(line) for line in lines] for extra, lines in wanted.items()}
    installed = {r.name: _installed(r.name) for group in needed.values() for r in group}
    modules = {name: _MODULES.get(name, name.replace("-", "_")) for name, found in installed.items() if found}
    reasons = import_each([m for m in modules.values() if modules_only is None or m in modules_only])
    facts |= {"versions": installed, "broken": {m: reason for m, reason in reasons.items() if reason}}

    fine: list[str] = []
    for requirement in needed.pop(""):
        found = installed[requirement.name]
        if found is None:
            yield Finding("fail", requirement.name, "is missing", f"pip install '{requirement}'")
        elif reason := reasons.get(modules[requirement.name]):
            yield _broken(requirement.name, found, reason)
        elif not requirement.specifier.contains(found, prereleases=True):
            detail = f"{found} is installed, but {requirement.specifier} is needed"
            yield Finding("fail", requirement.name, detail, f"pip install '{requirement}'")
        else:
            fine.append(requirement.name)
    named = ", ".join(f"{name} {installed[name]}" for name in fine if name in _NAMED)
    yield Finding("ok", "packages", f"{len(fine)} required package(s) can be imported: {named}")
    for extra, group in needed.items():
        for requirement in group:
            found = installed[requirement.name]
            if found is None:
                what = f"{requirement.name} is not installed (optional)"
                yield Finding("ok", f"extra {extra}", what, f"pip install {requirement.name} if you need it")
            elif reason := reasons.get(modules[requirement.name]):
                yield _broken(requirement.name, found, reason)
            else:
                yield Finding("ok", f"extra {extra}", f"{requirement.name} {found}")


def _broken(name: str, found: str, reason: str) -> Finding:
    short = " ".join(reason.split())[:200]
    return Finding(
        "fail", name, f"{found} is installed but cannot be imported: {short}", f"pip install --force-reinstall {name}"
    )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def examine_compiler(facts: dict[str, Any]) -> Iterator[Finding]:
    """Checks the further needs of engine.compile=true: a C compiler and Python's headers."""
    import shutil
    import sysconfig

    compiler = shutil.which(os.environ.get("CC") or "gcc") or shutil.which("cc") or shutil.which("clang")
    headers = (Path(sysconfig.get_path("include")) / "Python.h").exists()
    facts |= {"compiler": compiler, "headers": headers}
    missing = [*([] if compiler else ["a C compiler"]), *([] if headers else ["Python's headers"])]
    if missing:
        yield Finding(
            "ok",
            "compiler",
            f"{' and '.join(missing)} not found; only engine.compile=true needs this",
            "apt-get install gcc python3-dev if you need it",
        )
    else:
        yield Finding("ok", "compiler", f"{compiler}, with Python's headers")


def examine_kernels(facts: dict[str, Any]) -> Iterator[Finding]:
    """Compiles the layers' kernels for CPUs, which later runs then find (engine.kernels=native)."""
    from sivae_dist.models.layers.native import library

    facts["lacking"] = lacking = library.why_not()
    if lacking:
        yield Finding(
            "ok",
            "kernels",
            f"none in C++: {lacking}; training on CPUs is slower without",
            "apt-get install g++ if you train on CPUs",
        )
    else:
        yield Finding("ok", "kernels", "the layers' kernels for CPUs are compiled")
