"""Points 6, 7 and 10: checks that need several processes, GPUs or nodes."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.doctor.gpu.course import Course
from launch.doctor.report import Finding
from launch.doctor.selftest import last_tensors
from launch.steps import apart, same
from sivae_dist.engines.settings import ENGINES
from sivae_dist.run.directory import RunDirectory

_PATIENCE = 180.0
"""Timeout in seconds for a run to begin, or to end after one of its processes was killed."""
_ENGINES_AGREE = 1e-5
"""Maximum relative difference of all weights between engines after eight steps in fp32."""


def killed(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Kills one process of a run, then all; once resumed, it must end like an undisturbed run."""
    if course.processes < 2:
        yield Finding("ok", "6 two GPUs", "skipped: there is only one GPU here")
        return
    longer = ("schedule.images={4: 960, 8: 960, 16: 960}", "checkpoint.every=240")
    reference = course.test.begin("undisturbed", *longer)
    code, last = course.test.together(reference)
    if code:
        yield Finding("fail", "6 two GPUs", f"a run on {course.processes} processes failed: {last}", "NCCL_DEBUG=INFO")
        return
    run = course.test.begin("killed", *longer)
    with _training(course, run) as process:
        _wait_for_checkpoint(run, process)
        facts["contexts"] = _contexts()
        start = time.monotonic()
        os.kill(_workers(process.pid)[-1], signal.SIGKILL)
        code = process.wait(_PATIENCE)
        facts["ended_after"] = time.monotonic() - start
    if code == 0:
        yield Finding("fail", "6 kill one", "a run ended as if nothing had happened to it", "send the JSON")
    else:
        yield Finding(
            "ok", "6 kill one", f"all processes ended within {facts['ended_after']:.0f} s of one that was killed"
        )
    with _training(course, run) as process:
        _wait_for_checkpoint(run, process)
    code, last = course.test.together(run)
    name = f"the run failed ({last})" if code else same(last_tensors(run), last_tensors(reference))
    if name is None:
        yield Finding("ok", "6 resume", "killed twice and resumed: equal bit for bit to an undisturbed run")
    else:
        yield Finding("fail", "6 resume", f"killed twice and resumed: {name} differs", "send the JSON")
    shared = [line for line in facts["contexts"] if facts["contexts"].count(line) > 1]
    if len(facts["contexts"]) > course.processes and not shared:
        text = f"{len(facts['contexts'])} contexts of {course.processes} processes"
        yield Finding("warn", "6 contexts", f"{text}: a process uses another's GPU", "send the JSON")


@contextmanager
def _training(course: Course, run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a run on all processes in its own session, and kills them all at the end."""
    with run.with_suffix(".txt").open("ab") as log:
        process = subprocess.Popen(course.test.command(run), stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        for one in (*_workers(process.pid), process.pid):
            try:
                os.kill(one, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()


def _wait_for_checkpoint(run: Path, process: subprocess.Popen[bytes]) -> None:
    """Waits for a new checkpoint, or for the run's end."""
    folder, end = RunDirectory(run).checkpoints, time.monotonic() + _PATIENCE
    before = {path.name for path in folder.glob("images-*")}
    while process.poll() is None and {path.name for path in folder.glob("images-*")} <= before:
        if time.monotonic() > end:
            raise TimeoutError(f"no checkpoint within {_PATIENCE:.0f} s")
        time.sleep(0.02)


def _workers(parent: int) -> list[int]:
    """Worker processes of a launcher, oldest first."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            words = (status.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"launch.worker" in words:
            found.append(int(status.parent.name))
    return sorted(found)


def _contexts() -> list[str]:
    """Processes with a CUDA context, as `process, GPU`."""
    query = ["nvidia-smi", "--query-compute-apps=pid,gpu_uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def engines(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    """Compares the same run with every engine."""
    chosen = [{"name": name} | more for name, kind in ENGINES.items() for more in kind.examined]
    runs = {" ".join(map(str, settings.values())): settings for settings in chosen}
    first, reference = next(iter(runs)), None
    for name, settings in runs.items():
        engine = ", ".join(f"{key}: {value}" for key, value in settings.items())
        run = course.test.begin(name.replace(" ", "-"), f"engine={{{engine}}}")
        start = time.monotonic()
        code, last = course.test.together(run)
        facts[name] = {"seconds": time.monotonic() - start, "code": code}
        if code:
            todo = "do not use this engine; send the JSON"
            yield Finding("fail", "7 engines", f"{name} on {course.processes} process(es) failed: {last}", todo)
            continue
        tensors = last_tensors(run)
        if name == first:
            reference = tensors
        elif reference is not None:
            size = apart(tensors, reference)
            facts[name]["difference"] = size
            on = f"{course.processes} process(es)"
            text = f"{name} against {first}, 8 steps in fp32 on {on}: weights {size:.1e} apart"
            fine = size < _ENGINES_AGREE
            yield Finding("ok" if fine else "fail", "7 engines", text, "" if fine else "send the JSON")


def nodes(course: Course, facts: dict[str, Any]) -> Iterator[Finding]:
    todo = (
        "sivae submit tiny --data DATA --nodes 2 --gpus-per-node 1, once as it is and once with "
        "srun: [--gpu-bind=single:1] in the cluster's file (docs/slurm.md)"
    )
    yield Finding("ok", "10 nodes", "skipped: this command cannot start a second node", todo)
