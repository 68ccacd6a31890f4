"""engine.compile: what is compiled, how often, when, and what comes out."""

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sivae_dist.engines import compiling
from sivae_dist.run.directory import RunDirectory
from sivae_dist.step.schedule import Segment
from sivae_dist.train import ahead
from sivae_dist.train.precompile import compile_segment
from tests.helpers import (
    CPU,
    begin,
    tiny_settings,
    train,
)

SMALL = ("model.encoder_mapping=1", "model.decoder_mapping=1", "model.latent=4", "model.max_width=4")

Given = tuple[str, list[tuple[Any, ...]]]
"""A graph, and what is known of its inputs: what its code depends on."""


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[Given]:
    """All that torch's compiler is given. It runs graphs as they are: what is under test comes before it."""
    given: list[Given] = []

    def compile_fx(graph: torch.fx.GraphModule, inputs: list[Any], **_: Any) -> Callable[..., Any]:
        facts = [(type(one), one.dtype, one.shape, one.stride(), one.requires_grad) for one in inputs]
        given.append((graph.code, facts))
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    monkeypatch.setattr(compiling, "why_not", lambda device: "")
    monkeypatch.setattr(ahead.Ahead, "start", lambda *_: None)
    return given


SOFT_INTRO = ("model.resolution=4", "schedule.images=48", "objective.warmup=16")
BLENDING = ("objective={name: vae}", "schedule.images={4: 8, 8: 16}", "schedule.blend=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("assignments", "segments"),
    [
        (SOFT_INTRO, [Segment(4, False, True), Segment(4, False, False)]),
        (BLENDING, [Segment(4, False, False), Segment(8, True, False)]),
    ],
)
def test_two_graphs_for_every_segment(
    data: Path, tmp_path: Path, given: list[Given], assignments: tuple[str, ...], segments: list[Segment]
) -> None:
    """Neither the blend factor, micro-batches, nor what requires gradients compiles them again, nor does going on."""
    settings = tiny_settings(
        data, "engine.compile=true", "engine.max_batch_per_rank=4", "checkpoint.every=8", *SMALL, *assignments
    )
    torch._dynamo.utils.counters.clear()
    seen: dict[Segment, set[int]] = defaultdict(set)
    trainer = begin(tmp_path / "run", settings)
    steps = list(trainer.schedule.steps(0))
    tell = trainer.monitor.step

    def note(step: Any) -> None:
        seen[step.segment].add(len(given))
        tell(step)

    trainer.monitor.step = note  # type: ignore[method-assign]
    train(trainer, steps=len(steps) - 1)
    assert dict(seen) == {segments[0]: {2}, segments[1]: {4}}
    assert not torch._dynamo.utils.counters["graph_break"]
    compiled = given[2:]
    given.clear()
    compile_segment(settings, segments[1], 4, CPU)
    assert given == compiled  # in the background, the compiler is given the same
    given.clear()
    train(begin(tmp_path / "run"))
    assert given == compiled


class _Breaks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return x + 1


def test_what_is_not_one_graph_is_refused_in_a_sentence() -> None:
    objective = _Breaks()
    compiling.compile_objective(objective)
    with pytest.raises(ValueError, match="=true is not possible, as torch cannot compile") as refused:
        with compiling.reported():
            objective(torch.ones(2))
    assert "\n" not in str(refused.value)


# The background process.


def _is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _gone(*processes: int) -> bool:
    end = time.monotonic() + 60
    while any(map(_is_running, processes)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(_is_running, processes))


def _compiler_of(note: Path) -> int:
    end = time.monotonic() + 120
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return int(note.read_text())


_PARENT = """
import sys, time, torch
from pathlib import Path
from sivae_dist.step.schedule import Segment
from sivae_dist.train import ahead

ahead.WORKER = "tests.sleeping_compiler"
work = ahead._Work(Path(sys.argv[1]), Segment(4, False, False), 1, torch.device("cpu"))
print(work._process.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_compiler_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path / "note")], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        background = int(parent.stdout.readline())
        compiler = _compiler_of(tmp_path / "note")
        assert _is_running(background) and _is_running(compiler)
        assert os.getpriority(os.PRIO_PROCESS, compiler) == 19
        parent.send_signal(signal.SIGKILL)
    assert _gone(background, compiler)


@pytest.mark.slow
def test_a_run_ends_its_compiler_and_does_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "WORKER", "tests.sleeping_compiler")
    segment = Segment(8, True, False)
    work = ahead._Work(tmp_path / "note", segment, 1, CPU)
    compiler = _compiler_of(tmp_path / "note")
    late = work.finish(0.1)
    assert late == "warning: the code for 8 px, in transition was not compiled in 0s: it is compiled now"
    assert _gone(compiler, work._process.pid)
    monkeypatch.undo()
    failed = ahead._Work(tmp_path / "none", segment, 1, CPU).finish(120)
    assert f"could not be compiled in the background (ValueError: {tmp_path / 'none'} is not a run" in failed


def test_which_segment_is_compiled_ahead(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Segment, int]] = []

    class Work:
        def __init__(self, _run: Path, segment: Segment, batch: int, _device: torch.device) -> None:
            asked.append((segment, batch))
            self.segment = segment

        def finish(self, _patience: float) -> str:
            return f"waited for {self.segment}"

    monkeypatch.setattr(ahead, "_Work", Work)
    settings = tiny_settings(data, "engine.max_batch_per_rank={8: 2}")
    trainer = begin(tmp_path / "run", settings)
    steps = list(trainer.schedule.steps(0))
    trainer.close()
    following = ahead.Ahead(settings, RunDirectory(tmp_path / "run").path, trainer.schedule, CPU)
    for step in (*steps[:2], *steps[2:4]):
        following.start(step, settings.engine)
    assert asked == [(Segment(8, True, False), 2), (Segment(8, False, False), 2)]
    assert following.wait(Segment(8, False, False)) == ["waited for 8 px"]
    assert following.wait(Segment(8, False, False)) == []
    following.start(steps[-1], settings.engine)  # nothing comes after it
    assert len(asked) == 2
