"""Runs the ten points in order."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from launch.doctor.gpu import exactness, loading, several, speed
from launch.doctor.gpu.course import Course
from launch.doctor.report import Finding, Report

_PATIENCE = 600.0


def run(report: Report, course: Course, without: Callable[[str], str | None] = lambda _: None) -> None:
    """Runs all points; their measurements go into the report's facts. `without`: why one of this name is left out."""
    points: dict[str, Callable[[Course, dict[str, Any]], Iterator[Finding]]] = {
        "1 machine": machine,
        "2 step": exactness.against_cpu,
        "3 waits": speed.waits,
        "4 speed": speed.speed,
        "5 exactness": exactness.exactness,
        "6 two GPUs": several.killed,
        "7 engines": several.engines,
        "8 largest": speed.largest,
        "9 DALI": loading.loaders,
        "10 nodes": several.nodes,
    }
    for name, point in points.items():
        if (reason := without(name)) is not None:
            report.add(Finding("ok", name, f"skipped: {reason}"))
            continue
        facts = report.facts.setdefault(name, {})
        report.check(name, lambda point=point, facts=facts: point(course, facts))  # type: ignore[misc]
        course.forget()


def machine(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Records torch's switches, runs `sivae train tiny`, and, if the sources are here, the tests that need a GPU."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    facts["switches"] = {
        "cudnn.deterministic": cudnn.deterministic,
        "cudnn.benchmark": cudnn.benchmark,
        "conv": cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "matmul": matmul.fp32_precision,
        "allocator": os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF"),
    }
    data = course.test.faces_32()
    run = course.test.root / "tiny"
    command = ["-m", "launch.cli", "train", "tiny", *course.tiny, f"device={course.device.type}", "--data", str(data)]
    code, last = _python(course, *command, "--run-dir", str(run), "--nproc", str(course.processes))
    if code:
        yield Finding("fail", "1 train tiny", f"exited with code {code}: {last}", "send the JSON")
    else:
        yield Finding("ok", "1 train tiny", f"finished on {course.processes} process(es)")
    tests = Path(__file__).parents[3] / "tests"
    if course.device.type != "cuda" or not tests.is_dir():
        yield Finding("ok", "1 pytest", "skipped: pytest -m gpu needs a GPU and the sources")
        return
    code, last = _python(course, "-m", "pytest", "-q", "-m", "gpu", str(tests), folder=tests.parent)
    fine = code in (0, 5)  # 5: no tests were collected
    yield Finding("ok" if fine else "fail", "1 pytest", f"pytest -m gpu: {last}", "" if fine else "send its output")


def _python(course: Course, *arguments: str, folder: Path | None = None) -> tuple[int, str]:
    """The exit code, and the last line of output."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_PATIENCE,
        cwd=folder,
        check=False,
    )
    return done.returncode, " ".join(done.stdout.strip().splitlines()[-1:])
