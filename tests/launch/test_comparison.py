"""A sweep's runs over two of its keys: which values a heat map has, and what is said of the others."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from launch.cli.sweep import sweep_table
from launch.comparison import Measured, axis, compare, usual_axes
from launch.sweep import Sweep, run_names, short_keys
from sivae_dist.run.directory import RunDirectory, SweepFolder

POINTS = list(
    Sweep.model_validate(
        {
            "config": "tiny",
            "grid": {
                "objective.beta_kl": [2, 0.1],
                "objective.beta_neg": {"times": [3, 1], "of": "objective.beta_kl"},
                "objective.margin": [1, 5],
                "seed": [0, 1],
            },
        }
    ).points()
)
"""16 runs."""
SHORT = short_keys(POINTS)


def measured(values: dict[int, float | None], states: dict[int, str]) -> list[Measured]:
    """The value of a run is its number, unless given."""
    return [
        Measured(f"{number:04d}", point, values.get(number, float(number)), states.get(number, "finished"))
        for number, point in enumerate(POINTS)
    ]


def test_the_first_keys_but_the_seed_are_the_axes() -> None:
    assert [one.label for one in usual_axes(None, None, None, POINTS)] == ["beta_kl", "beta_neg"]
    asked = usual_axes(None, "objective.margin", "beta_kl", POINTS)
    assert [one.label for one in asked] == ["beta_neg", "margin", "beta_kl"]
    with pytest.raises(ValueError, match=r"needs two keys that differ .* these differ: seed, beta"):
        usual_axes(None, None, None, [{"seed": 0, "a.beta": 1}, {"seed": 1, "a.beta": 2}])
    with pytest.raises(ValueError, match="different keys"):
        usual_axes("margin", "objective.margin", None, POINTS)


def test_quotients_of_keys() -> None:
    quotient = axis("beta_neg/beta_kl", POINTS)
    assert {quotient.at(point) for point in POINTS} == {1, 3}
    assert quotient.at({"objective.beta_neg": "x", "objective.beta_kl": 1}) is None
    assert (
        quotient.at({"objective.beta_neg": 1}) is None
        and quotient.at({"objective.beta_neg": 1, "objective.beta_kl": 0}) is None
    )
    with pytest.raises(ValueError, match=r"margn is no key of this sweep; did you mean objective.margin\?"):
        axis("margn", POINTS)
    with pytest.raises(ValueError, match="a quotient has two keys"):
        axis("beta_neg/beta_kl/margin", POINTS)


def test_keys_with_one_value_may_be_asked_for() -> None:
    points = [{"objective.beta_kl": 0.5, "objective.beta_neg": value, "x.beta_kl": value} for value in (0.5, 1.5)]
    assert [one.label for one in usual_axes("objective.beta_kl", "beta_neg", None, points)] == ["beta_kl", "beta_neg"]
    assert axis("beta_kl", points).key == "x.beta_kl"  # of two keys of that name, the one that differs
    quotient = axis("beta_neg/objective.beta_kl", points)
    assert [quotient.at(point) for point in points] == [1, 3]


def test_a_cell_is_the_best_of_the_means_over_seeds() -> None:
    axes = usual_axes("beta_kl", "beta_neg/beta_kl", None, POINTS)
    found = compare(measured({}, {}), axes, largest=False)
    drawn = found.drawing
    assert (drawn.rows, drawn.columns) == (["0.1", "2"], ["1", "3"])  # by size
    cells = drawn.panels[0].cells
    # Runs 0 to 3 have beta_kl 2 and three times that: 0 and 1 margin 1, 2 and 3 margin 5.
    assert {place: cell.value for place, cell in cells.items()} == {(1, 1): 0.5, (1, 0): 4.5, (0, 1): 8.5, (0, 0): 12.5}
    assert drawn.best() == (0, (1, 1)) and all(cell.settled for cell in cells.values())
    assert found.meaning(SHORT) == ", mean over seeds, best over margin"
    assert found.best_cell() == "best 0.5 at beta_kl = 2, beta_neg/beta_kl = 3"
    assert not found.footnote() and not found.remarks(axes)
    other = compare(measured({}, {}), axes, largest=True)
    assert other.drawing.panels[0].cells[1, 1].value == 2.5 and other.drawing.best() == (0, (0, 0))


def test_panels_are_the_values_of_a_further_key() -> None:
    axes = usual_axes("beta_kl", "beta_neg/beta_kl", "margin", POINTS)
    found = compare(measured({}, {}), axes, largest=False)
    assert [panel.title for panel in found.drawing.panels] == ["margin = 1", "margin = 5"]
    assert [panel.cells[1, 1].value for panel in found.drawing.panels] == [0.5, 2.5]
    assert found.meaning(SHORT) == ", mean over seeds"
    assert found.best_cell().endswith("beta_neg/beta_kl = 3, margin = 1")


def test_runs_without_a_final_value_are_named() -> None:
    axes = usual_axes("beta_kl", "beta_neg/beta_kl", "margin", POINTS)
    values = {0: None, 2: None, 3: None, 5: float("inf")}
    found = compare(measured(values, {0: "failed", 2: "pending", 3: "failed", 6: "running"}), axes, largest=False)
    one, five = (panel.cells for panel in found.drawing.panels)
    # A mean over fewer seeds is none, for which 0 and 1 are; 2 and 3 have no value at all.
    assert (one[1, 1].value, one[1, 1].note, one[1, 1].settled) == (None, "1 of\n2 runs", False)
    assert (five[1, 1].value, five[1, 1].note, five[1, 1].settled) == (None, "0 of\n2 runs", False)
    assert (five[1, 0].value, five[1, 0].settled) == (6.5, False)  # of runs of which one is still going on
    assert (one[0, 0].value, one[0, 0].settled) == (12.5, True)
    assert found.remarks(axes) == [
        "no final value: 0000 failed, 0002 pending, 0003 failed, 0005 finished, 0006 running"
    ]
    assert found.footnote() == (
        "Hatched, as runs have no final value: 0000 failed, 0002 pending, 0003 failed, 0005 finished, 0006 running"
    )
    alone = compare(measured(values, {3: "failed"})[3:4], axes, largest=False)
    assert alone.drawing.panels[0].cells[0, 0].note == "0003\nfailed" and alone.drawing.best() is None
    many = compare(measured({}, dict.fromkeys(range(16), "running")), axes, largest=False)
    assert many.footnote().endswith("0011 running and 4 more") and "0015 running" in many.remarks(axes)[0]


def test_runs_that_lack_a_key_are_left_out_and_named() -> None:
    axes = usual_axes(None, None, None, POINTS)
    runs = [*measured({}, {}), Measured("0016", {"objective.name": "vae"}, -1.0, "finished")]
    found = compare(runs, axes, largest=False)
    assert found.remarks(axes) == ["left out, without beta_kl or beta_neg: 0016"]
    assert found.best_cell().startswith("best 0.5 ")


def test_words_keep_their_order() -> None:
    points = [{"data": name, "lr": lr} for name in ("spiral", "rings") for lr in (2, 10)]
    runs = [Measured(str(number), point, 1.0, "finished") for number, point in enumerate(points)]
    drawn = compare(runs, usual_axes(None, None, None, points), largest=False).drawing
    assert (drawn.rows, drawn.columns) == (["spiral", "rings"], ["2", "10"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a sweep whose runs have all finished, except the last one, which was never begun."""
    place = tmp_path / "six"
    names = run_names(POINTS, [])
    for number, name in enumerate(names[:-1]):
        run = RunDirectory(place / name)
        run.path.mkdir(parents=True)
        run.metrics.write_text(json.dumps({"images": 16, "kl/real": float(number)}) + "\n")
        run.jobs.write_text(json.dumps({"job": "1", "kind": "slurm"}) + "\n")
        run.starts.write_text(json.dumps({"job": "1", "restart": 0, "code": 0}) + "\n")
    (place / names[-1]).mkdir()
    rows = [{"run": name, **point} for name, point in zip(names, POINTS, strict=True)]
    SweepFolder(place).index.write_text(json.dumps(rows))
    return place


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "map.svg"
    sweep_table(folder, "kl/real", plot=out, rows="beta_neg/beta_kl", columns="beta_kl")
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{out}: best 0.5 at beta_neg/beta_kl = 3, beta_kl = 2",
        "no final value: 0015 not submitted",
    ]
    sweep_table(folder, "kl/real", plot=out, largest=True, panels="margin")
    assert f"{out}: best 12.5 at beta_kl = 0.1, beta_neg = 0.1, margin = 1" in capsys.readouterr().out
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"rows": "seed"}, "give --plot FILE as well"),
        ({"plot": tmp_path / "map.txt"}, "ends in .txt"),
        ({"plot": out, "rows": "x"}, "x is no key of this sweep"),
        ({"plot": out, "columns": "objective.beta_kl", "rows": "beta_kl"}, "different keys"),
    ]
    for options, message in wrong:
        with pytest.raises(typer.Exit):
            sweep_table(folder, "kl/real", **options)
        assert message in capsys.readouterr().err
