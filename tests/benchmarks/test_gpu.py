"""The benchmark for GPUs, on a CPU at a tiny size: all of its code but calls that need a GPU."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import MODES, Bench, Mode, Row, passes_of, table
from benchmarks.gpu_page import against_the_plan, judge, page
from benchmarks.iteration import LR, OurIteration
from benchmarks.plain_iteration import PlainIteration
from launch.doctor.selftest import SelfTest
from launch.forecast.peaks import peak
from sivae_dist.config.run_settings import load_config
from sivae_dist.models.layers import forms
from sivae_dist.models.style import StyleSettings
from sivae_dist.objectives.soft_intro import SoftIntroSettings
from sivae_dist.train.counts import count_step
from sivae_dist.train.tracing import Tracker
from tests.benchmarks.test_iteration import ROOT, TINY

CPU = torch.device("cpu")
ROW = Row(8, 2)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    given = argparse.Namespace(config="ffhq256", set=TINY, authors=None, batch=None, points=None, seconds=0.0)
    with SelfTest(CPU, 1, tmp_path) as test:
        yield Bench(given, CPU, test)
    forms.use(None)


@pytest.mark.slow
@pytest.mark.parametrize("gamma_r", [0, 1e-8])
def test_passes_are_the_share_of_the_authors_operations(gamma_r: float) -> None:
    """Both have the same convolutions in a pass where layers are plain and the authors fold none."""
    run = load_config(
        "ffhq256", ["data.path=unused", "device=cpu", "objective.style_mixing=0", f"objective.gamma_r={gamma_r}"]
    )
    assert isinstance(run.model, StyleSettings) and isinstance(run.objective, SoftIntroSettings)
    with torch.device("meta"):
        iterate = PlainIteration(run.model, run.objective, LR).ready(32, 2)
        with Tracker() as tracker:
            iterate()
    with forms.using("plain"):
        ours = count_step(run, 32, 2).flops
    assert ours / tracker.flops == pytest.approx(passes_of(run.objective) / gpu.PASSES_OF_THE_BASELINE, rel=2e-3)


@pytest.mark.slow
def test_a_mode_that_fails_is_kept_with_its_message(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    take = OurIteration.ready

    def ready(self: OurIteration, resolution: int, batch: int) -> Any:
        if self.settings.engine.compile:
            raise RuntimeError("no\ncompiler")
        if self.settings.engine.precision == "bf16":
            raise torch.OutOfMemoryError("CUDA out of memory | all of it")
        return take(self, resolution, batch)

    monkeypatch.setattr(OurIteration, "ready", ready)
    modes = [MODES[name] for name in ("fp32-compiled", "bf16", "baseline-tf32", "tf32")]
    skipped: list[str] = []
    cells = list(table(bench, [ROW], modes, lambda _: False, skipped))
    assert [cell["mode"] for cell in cells] == ["bf16", "baseline-tf32", "tf32", "fp32-compiled"] and not skipped
    assert cells[0]["error"] == "OutOfMemoryError: CUDA out of memory | all of it"
    assert cells[3]["error"] == "RuntimeError: no compiler"
    for cell, passes in ((cells[1], 33), (cells[2], 28)):
        assert 0 < cell["host"] <= cell["total"] and cell["begin"] > 0 and cell["passes"] == passes
        assert cell["traced"] > 0 and cell["allocated"] is None
    run = bench.settings(Mode(True, "tf32"))
    with forms.using(None):
        assert cells[2]["flops"] == count_step(run, 8, 2).flops < cells[1]["flops"]
    judge(cells, "NVIDIA H200")
    lines = list(page({"cells": cells, "skipped": skipped, "baseline": "plain"}, "NVIDIA H200"))
    assert any("| bf16 | OutOfMemoryError: CUDA out of memory / all of it |" in line for line in lines)
    assert len({line.count("|") for line in lines if line.strip().startswith("|")}) == 1


def test_what_there_is_no_time_for_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    left = iter([100.0, 59.0])

    def late(needed: float) -> bool:
        return next(left, 0.0) <= needed

    monkeypatch.setattr(bench, "measure", lambda *_: gpu.Cell(1.0, 1.0, 1.0, 1, 28, 1, None, None))
    skipped: list[str] = []
    modes = [MODES["bf16-compiled"], MODES["bf16"]]
    (cell,) = table(bench, [ROW], modes, late, skipped)
    assert cell["mode"] == "bf16" and skipped == ["8, 2: bf16-compiled"]
    judge([cell], "cpu")
    assert "Skipped for lack of time: 8, 2: bf16-compiled." in "\n".join(
        page({"cells": [cell], "skipped": skipped, "baseline": "plain"}, "cpu")
    )


@pytest.mark.parametrize(
    ("card", "share", "reached"),
    [("NVIDIA H200", 0.5, True), ("NVIDIA A100-SXM4-80GB", 494.7 / 312, None), ("cpu", None, None)],
)
def test_rates_follow_from_the_seconds(card: str, share: float | None, reached: bool | None) -> None:
    def cell(name: str, total: float, flops: int | None) -> dict[str, Any]:
        mode = MODES[name]
        figures = gpu.Cell(0.1, total, 1.0, flops, 28 if mode.ours else 33, None, None, None)._asdict()
        return {"resolution": 64, "batch": 32, "mode": name, **mode._asdict(), **figures}

    cells = [cell("baseline-fp32", 9.0, 1), cell("baseline-tf32", 4.0, 1), cell("bf16", 1.0, 494_700_000_000_000)]
    cells += [cell("fp32", 2.0, None), cell("fp32", 1.0, 1) | {"resolution": 32}]
    judge(cells, card)
    ours = cells[2]
    assert (ours["images/s"], ours["passes/s"], ours["times the baseline"]) == (32, 28, 4.0)
    assert ours["mfu"] == (None if share is None else pytest.approx(share)) and ours["reached"] is reached
    assert cells[3]["times the baseline"] == 2.0 and cells[3]["reached"] is (None if reached is None else False)
    assert cells[3]["mfu"] is None and cells[4]["times the baseline"] is None and cells[0]["reached"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("card", "planned"), [("NVIDIA H200", True), ("NVIDIA H200 NVL", False), ("cpu", False)])
def test_what_the_plan_expects_is_beside_it(bench: Bench, card: str, planned: bool) -> None:
    bench.given.set = [*TINY, "model.resolution=64"]
    cells = [
        {"resolution": px, "batch": 2, "total": 1e-3, **MODES[name]._asdict()}
        for px, name in ((64, "bf16"), (64, "bf16-compiled"), (64, "baseline-fp32"), (32, "bf16"))
    ]
    against_the_plan(lambda precision: bench.settings(Mode(True, precision)), cells, card)
    shares = [cell.get("share of the plan") for cell in cells]
    if not planned:
        assert shares == [None] * 4
        return
    # The host issues a few thousand operations in 12 us each, which is longer than such a GPU computes.
    run = bench.settings(Mode(True, "bf16"))
    with forms.using("fused"):
        issued = 12e-6 * count_step(run, 64, 2).operations
    assert shares == [pytest.approx(issued / 1e-3, rel=0.2)] * 2 + [None] * 2 and shares[0] == shares[1]


def test_a_card_is_found_by_its_name() -> None:
    def bf16(name: str) -> float | None:
        found = peak(name, "bf16")
        return None if found is None else found[0] / 1e12

    assert bf16("NVIDIA H100 80GB HBM3") == bf16("NVIDIA H200") == 989.4
    assert bf16("NVIDIA H200 NVL") == bf16("NVIDIA H100 NVL") == 835.5 and bf16("NVIDIA H100 PCIe") == 756
    assert bf16("NVIDIA GeForce RTX 4090") == 165.2 and bf16("NVIDIA A100-PCIE-40GB") == 312
    assert bf16("NVIDIA L4") is None and peak("NVIDIA H200", "fp64") is None


@pytest.mark.slow
def test_the_command_writes_its_table_its_figures_and_the_points(tmp_path: Path) -> None:
    words = [
        "--device",
        "cpu",
        "--rows",
        "8x2",
        "--modes",
        "baseline-fp32,fp32,bf16",
        "--points",
        "3,5",
        "--seconds",
        "0",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words, "--set", *TINY, "--json", str(tmp_path / "a.json"),
         "--out", str(tmp_path / "a.md")],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.md").read_text() == done.stdout
    assert "the peaks of cpu are not known" in done.stdout and "| 8, 2 | baseline-fp32 |" in done.stdout
    facts = json.loads((tmp_path / "a.json").read_text())
    assert [cell["mode"] for cell in facts["cells"]] == ["baseline-fp32", "fp32", "bf16"] and facts["skipped"] == []
    assert facts["cells"][1]["times the baseline"] == facts["cells"][0]["total"] / facts["cells"][1]["total"]
    found = {finding["name"]: finding for finding in facts["points"]["findings"]}
    assert found["3 waits"]["detail"] == "a step that does not log does not wait for the GPU"
    assert found["5 guard"]["level"] == "ok" and facts["points"]["facts"]["5 exactness"]["noise"]
    assert found["4 speed"]["detail"] == "skipped: --points leaves it out"
