"""The benchmark of weak scaling: what its figures mean, and that each process stays on its core."""

import re
import sys

import pytest

from benchmarks import weak_scaling
from benchmarks.weak_scaling import Figures, Taken, best

TINY = ["model.latent=8", "model.base_width=2", "model.max_width=8", "model.decoder_mapping=2"]


def test_a_round_lasts_from_the_first_start_to_the_last_end_and_the_best_counts() -> None:
    rounds = [[Taken(0.0, 4.0, 2.0), Taken(1.0, 5.0, 4.0)], [Taken(10.0, 13.0, 3.0), Taken(10.0, 14.0, 3.5)]]
    assert best(rounds) == Figures(wall=4.0, cpu=3.0, share=3.25 / 4)


@pytest.mark.slow
def test_the_table_compares_two_processes_with_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--rows", "8", "--images", "2", "--rounds", "1", "--set", *TINY]
    monkeypatch.setattr(sys, "argv", ["weak_scaling.py", *arguments])
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    weak_scaling.main()
    out = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| 8, 2")]
    assert [row[1] for row in rows] == ["1 alone", "2 apart", "2 together"]
    assert rows[0][3] == rows[0][5] == "100.0%"
    rates, seconds = ([float(row[column]) for row in rows] for column in (2, 4))
    for row, rate, cpu in zip(rows, rates, seconds, strict=True):
        assert float(row[5].rstrip("%")) == pytest.approx(100 * seconds[0] / cpu, rel=0.05)
        count = int(row[1][0])
        assert float(row[3].rstrip("%")) == pytest.approx(100 * rate / rates[0] / count, rel=0.05)
        assert float(row[6].rstrip("%")) <= 101, "a process had more than its core"
    assert re.search(r"sum in each step: 0 MB at 8 px", out)


def test_unknown_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["weak_scaling.py", "--rows", "48"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    with pytest.raises(SystemExit):
        weak_scaling.main()
