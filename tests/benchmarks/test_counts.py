"""The table of counts shows what is counted."""

import sys

import pytest

from benchmarks import counts
from sivae_dist.config.run_settings import load_config
from sivae_dist.train.counts import count_step

TINY = ["model.latent=8", "model.base_width=2", "model.max_width=8", "model.decoder_mapping=2"]


@pytest.mark.slow
def test_rows_hold_what_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["counts.py", "--rows", "8", "--batch", "2", "--set", *TINY])
    counts.main()
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 8, ")]
    for precision, cells in zip(("fp32", "bf16"), lines, strict=True):
        found = count_step(load_config("ffhq256", ["data.path=unused", *TINY, f"engine.precision={precision}"]), 8, 2)
        assert cells[0] == f"| 8, {precision}" and cells[3] == f"{found.operations:,}"
        assert cells[2] == f"{found.traffic / 2e9:.2f}"


def test_a_resolution_that_the_model_has_not_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["counts.py", "--rows", "8,48"])
    with pytest.raises(SystemExit):
        counts.main()
    assert "--rows 8,48: the model has 4, 8, 16, 32, 64, 128, 256" in capsys.readouterr().err
