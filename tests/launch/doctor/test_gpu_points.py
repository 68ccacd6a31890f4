"""The ten points of `sivae doctor --gpu`, each on two CPU processes at a tiny size: the code is the same."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from launch.cli import app
from launch.doctor.gpu import exactness, loading, points, several, speed
from launch.doctor.gpu.course import Course
from launch.doctor.report import Report
from launch.doctor.selftest import SelfTest
from sivae_dist.models.layers import forms
from sivae_dist.step.optimizer import guarded_step
from tests.helpers import tiny_settings

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    with SelfTest(CPU, 2, tmp_path_factory.mktemp("course")) as test:
        yield Course(
            CPU, 2, tiny_settings(Path("unused")), 2, test, sizes=((8, 2), (4, 2)), modes=("fp32", "bf16"), steps=2,
            images=32, side=32,
        )  # fmt: skip


def lines(point: Any, course: Course, facts: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """Level and detail of all findings."""
    return [(finding.level, finding.detail) for finding in point(course, {} if facts is None else facts)]


@pytest.mark.slow
def test_steps_agree_and_are_timed(course: Course) -> None:
    facts: dict[str, Any] = {}
    assert all(level == "ok" for level, _ in lines(exactness.against_cpu, course, facts)) and facts["difference"] == 0
    assert lines(speed.waits, course) == [("ok", "a step that does not log does not wait for the GPU")]
    found = lines(speed.speed, course, facts)
    assert len(found) == 4 and all(level == "ok" for level, _ in found), found
    assert [(row["resolution"], row["mode"]) for row in facts["rows"]] == [
        (r, m) for r in (8, 4) for m in ("fp32", "bf16")
    ]
    assert all(0 < row["host"] <= row["total"] for row in facts["rows"])
    assert lines(speed.largest, course, facts) == [("ok", "a blending step at 8 px with 2 images: was taken")]
    assert facts["estimate"]["activations"] > 0


def test_a_step_has_the_form_of_layers_that_training_would_choose(course: Course) -> None:
    """Whatever form a stepper before it has left."""
    try:
        for chosen, form in (("engine.kernels=fused", "fused"), ("engine.kernels=plain", "plain")):
            course.stepper(4, chosen)
            assert forms.current() == form
    finally:
        forms.use(None)


def test_a_point_that_is_left_out_says_why(course: Course) -> None:
    report = Report()
    points.run(report, course, lambda name: None if name.startswith("10 ") else "for a test")
    assert [finding.detail for finding in report.findings[:-1]] == ["skipped: for a test"] * 9
    assert report.findings[-1].detail == "skipped: this command cannot start a second node"


def test_a_wait_is_named(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch warns of it on a GPU."""
    import warnings

    def warn(self: Any, mode: str) -> None:
        if mode == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
            warnings.warn("something else", stacklevel=1)

    monkeypatch.setattr(speed._Watched, "_mode", warn)
    course = Course(CPU, 1, course.config, 2, SelfTest(CPU, 1), ((4, 2),))
    with course.test:
        ((level, detail),) = lines(speed.waits, course)
    assert level == "warn" and "waits for the GPU 1 times: 1 x test_gpu_points.py" in detail


@pytest.mark.slow
def test_memory_that_is_not_there_is_a_line(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("launch.steps.Stepper.step", full)
    assert {level for level, detail in lines(speed.speed, course) if "out of memory" in detail} == {"warn"}
    ((level, detail),) = lines(speed.largest, course)
    assert level == "fail" and "does not fit" in detail


def test_exactness(course: Course) -> None:
    facts: dict[str, Any] = {}
    found = lines(exactness.exactness, course, facts)
    assert len(found) == 5 and all(level == "ok" for level, _ in found), found
    assert len(facts["noise"]) == 64 and facts["with deterministic"]["first"] is None


def test_an_unguarded_optimizer_is_found(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    def unguarded(*arguments: Any) -> Any:
        norm, _ = guarded_step(*arguments[:4], torch.ones((), dtype=torch.bool))
        return norm, torch.ones((), dtype=torch.bool)

    monkeypatch.setattr("sivae_dist.engines.ddp.guarded_step", unguarded)
    ((level, detail),) = lines(lambda course, facts: exactness._poisoned(course), course)
    assert level == "fail" and "a step was taken with a NaN" in detail


def test_decoders(course: Course) -> None:
    facts: dict[str, Any] = {}
    ((level, detail),) = lines(loading.loaders, course, facts)
    assert level == "ok" and "at most 0 of 255 apart" in detail and facts["dali"] > 0


def test_one_gpu_and_one_node_leave_things_out(course: Course) -> None:
    alone = Course(CPU, 1, course.config, 2, course.test, ())
    assert lines(several.killed, alone) == [("ok", "skipped: there is only one GPU here")]
    assert "skipped" in lines(several.nodes, alone)[0][1]


@pytest.mark.slow
def test_points_come_in_order_and_fail_alone(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in {
        exactness: ("against_cpu", "exactness"),
        speed: ("waits", "speed", "largest"),
        several: ("killed", "engines"),
        loading: ("loaders",),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, lambda course, facts: iter(()))
    monkeypatch.setattr(several, "nodes", lambda course, facts: 1 / 0)
    monkeypatch.setattr(points, "_python", lambda course, *words: (1, "error: no space left on device"))
    report = Report()
    points.run(report, course)
    assert [(finding.level, finding.name) for finding in report.findings] == [
        ("fail", "1 train tiny"), ("ok", "1 pytest"), ("fail", "10 nodes"),
    ]  # fmt: skip
    assert "no space left" in report.findings[0].detail
    assert list(report.facts) == [
        "1 machine", "2 step", "3 waits", "4 speed", "5 exactness", "6 two GPUs", "7 engines", "8 largest", "9 DALI",
        "10 nodes",
    ]  # fmt: skip
    json.dumps(report.facts)


def test_without_a_gpu_it_refuses(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU, and what is tested is a machine without")
    done = CliRunner().invoke(app, ["doctor", "--gpu", "--json", str(tmp_path / "report.json")])
    assert done.exit_code == 1 and "--gpu needs a GPU: " in done.output and "without --gpu" in done.output
    assert not list(tmp_path.iterdir())


long = pytest.mark.skipif("SIVAE_LONG_TESTS" not in os.environ, reason="minutes of starting processes; docs/doctor.md")


@long
def test_killed_and_resumed(course: Course) -> None:
    assert [level for level, _ in lines(several.killed, course)] == ["ok", "ok"]


@long
def test_engines_and_tiny(course: Course) -> None:
    found = lines(several.engines, course)
    assert [level for level, _ in found] == ["ok"] * 3, found
    tiny = ("schedule.images=64", "objective.warmup=32", "ema.half_life=20", "checkpoint.every=0")
    small = Course(CPU, 2, course.config, 2, course.test, (), tiny=tiny)
    assert lines(points.machine, small)[0] == ("ok", "finished on 2 process(es)")
