"""What `sivae benchmark` measures is of the kinds that steps consist of, and can be planned with."""

from pathlib import Path

import pytest
import torch

from launch.forecast import command, microbenchmarks
from launch.forecast.machine import read_machine
from launch.forecast.microbenchmarks import Stopwatch
from launch.forecast.roofline import time_of_step
from sivae_dist.models.layers import forms
from sivae_dist.train.counts import trace_step
from tests.helpers import tiny_settings


@pytest.mark.slow
def test_a_measured_machine_has_a_time_for_every_operation_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (
        ("_SIDES", {4: (4,), 8: (4, 8)}), ("_PRODUCTS", {4: (2, 8)}), ("_BYTES", (1 << 10, 1 << 14)),
        ("_ROUND", 1 << 14),
    ):  # fmt: skip
        monkeypatch.setattr(microbenchmarks, name, value)
    out = tmp_path / "machine.json"
    command.benchmark_machine(out, "cpu", "fp32,bf16", 1)
    machine = read_machine(out)
    assert "measured by `sivae benchmark` in CPU seconds" in machine.source[0]
    assert f"written to {out}" in capsys.readouterr().out
    measured = {(one.kind, one.precision) for one in (*machine.rates, *machine.streams)}
    precisions = {torch.float32: "fp32", torch.bfloat16: "bf16"}
    for precision in ("fp32", "bf16"):
        run = tiny_settings(Path("none"), f"engine.precision={precision}", "engine.checkpoint_activations=true")
        with forms.using("native"):
            work = trace_step(run, 8, 2, blending=True).work
        used = {(each.kind, precisions.get(each.dtype, "fp32")) for each in work}
        assert used - measured <= ({("native", p) for p in ("fp32", "bf16")} if forms.fastest() != "native" else set())
        assert 0 < time_of_step(work, machine, run.engine.precision).total < 10


@pytest.mark.parametrize(
    ("precision", "words"), [("fp31", "--precision fp31: known are fp32, tf32"), ("fp32,", "--precision fp32,")]
)
def test_a_precision_that_there_is_not_is_refused(precision: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        command.benchmark_machine(tmp_path / "machine.json", "cpu", precision, 1)
    assert not (tmp_path / "machine.json").exists()


def test_a_stopwatch_takes_the_fastest_round_after_one_that_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Stopwatch(torch.device("cpu"), budget=0.0)
    rounds = iter((9.0, 3.0, 2.0))
    monkeypatch.setattr(watch, "_round", lambda operations: next(rounds))
    assert watch.least([lambda: None] * 4) == 0.5
