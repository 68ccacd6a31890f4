"""Names, places and tables of a sweep's runs, without any."""

import json
import re
from pathlib import Path

import pytest

from launch.cli.tables import TableRow, show
from launch.record import load_index, runs_in
from launch.sweep import Sweep, load_sweep, run_names
from sivae_dist.run.directory import SweepFolder


def names(**described: object) -> list[str]:
    return run_names(list(Sweep.model_validate({"config": "tiny", **described}).points()), [])


def test_names_hold_what_varies() -> None:
    grid = {"objective.beta_neg": [16, 64], "schedule.lr": [2e-4], "seed": [0, 1]}
    assert names(grid=grid) == [
        "0000-beta_neg=16-seed=0", "0001-beta_neg=16-seed=1", "0002-beta_neg=64-seed=0", "0003-beta_neg=64-seed=1"
    ]  # fmt: skip
    runs = [{"objective": {"name": "vae"}}, {"objective": {"name": "intro"}}, {}]
    assert names(runs=runs) == ["0000-name=vae", "0001-name=intro", "0002"]
    same_last_part = [{"schedule.batch": 8, "evaluation.batch": 16}, {"schedule.batch": 16, "evaluation.batch": 8}]
    assert names(runs=same_last_part)[0] == "0000-schedule.batch=8-evaluation.batch=16"


def test_values_that_are_multiples_of_another_key(tmp_path: Path) -> None:
    grid = {
        "objective.beta_kl": [0.1, 2],
        "objective.beta_neg": {"times": [1, 3], "of": "objective.beta_kl"},
        "seed": [0, 1],
        "objective.margin": {"times": [0.5], "of": "objective.beta_neg"},
    }
    points = [tuple(point.values()) for point in Sweep.model_validate({"config": "tiny", "grid": grid}).points()]
    assert points[::2] == [
        (0.1, 0.1, 0, 0.05),
        (0.1, 0.3, 0, 0.15),
        (2, 2, 0, 1),
        (2, 6, 0, 3),
    ]  # not 0.30000000000000004
    assert points[1] == (0.1, 0.1, 1, 0.05)
    assert isinstance(points[-1][1], int)  # what has to be a whole number stays one
    assert names(grid=grid)[2] == "0002-beta_kl=0.1-beta_neg=0.3-seed=0-margin=0.15"

    def problem(grid: str) -> str:
        (tmp_path / "wrong.yaml").write_text(f"config: tiny\ngrid: {grid}\n")
        with pytest.raises(ValueError) as caught:
            load_sweep(tmp_path / "wrong.yaml")
        return str(caught.value).removeprefix(f"{tmp_path / 'wrong.yaml'}: ")

    above = "which is no key of the grid above it"
    assert problem("{a: {times: [1], of: b}, b: [1]}") == f"grid.a is a multiple of b, {above}"
    assert problem("{a.b: [1], c: {times: [1], of: b}}") == f"grid.c is a multiple of b, {above}; did you mean a.b?"
    assert problem("{a: [1, x], b: {times: [1], of: a}}") == "grid.b is a multiple of a, but 'x' is not a number"
    assert problem("{a: [1], b: {times: [x], of: a}}") == "grid.b.times: a number is needed, not 'x'"
    assert problem("{a: [1], b: {times: [2]}}") == "grid.b.of is not set"
    assert problem("{a: 1}") == "grid.a: a list is needed ([a, b]), not 1"


def test_names_are_short_differ_and_suit_any_file_system() -> None:
    values = ["/data/faces/", "a b:c*?", "\N{SNOWMAN}", "x" * 300, [1, 2], True, {"4": 200}, None, 1e-5]
    found = names(grid={"data.path": values})
    assert len({name.lower() for name in found}) == len(values)
    assert all(re.fullmatch(r"[A-Za-z0-9._+=-]{4,66}", name) for name in found), found
    assert found[0] == "0000-path=faces" and found[-1].endswith("path=1e-05")
    many = names(grid={f"group.setting_number_{k}": [k, k + 1] for k in range(6)})
    assert len(set(many)) == 64 and max(map(len, many)) <= 66


def test_equal_runs_have_names_of_their_own() -> None:
    points = [{"seed": 0}, {"seed": 0}, {"seed": 1}]
    first = run_names(points, [])
    assert first == ["0000-seed=0", "0001-seed=0", "0002-seed=1"]
    assert run_names(points, [{"run": name, **point} for name, point in zip(first, points, strict=True)]) == first


def test_a_sweep_that_grows_keeps_the_names_of_its_runs(tmp_path: Path) -> None:
    """Those given by another version as well, and keys that JSON made text of."""
    before = [
        {"run": "0000-seed=0-images=_4_200", "seed": 0, "schedule.images": {4: 200}},
        {"run": "0001-x", "seed": 5},
    ]
    SweepFolder(tmp_path).index.write_text(json.dumps(before))
    points = [{"seed": 1}, {"schedule.images": {4: 200}, "seed": 0}]
    assert run_names(points, load_index(tmp_path)) == ["0002-seed=1", "0000-seed=0-images=_4_200"]
    assert [path.name for path in runs_in(tmp_path)] == ["0000-seed=0-images=_4_200", "0001-x"]


def test_in_a_file_every_run_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """However much its state has to say: scripts read these lines."""
    monkeypatch.delenv("COLUMNS", raising=False)
    state = "failed: " + "a word of it " * 200
    show(["images"], [TableRow("a", state, ["16"]), TableRow("b", "finished", ["48"])])
    _, first, second = capsys.readouterr().out.splitlines()
    assert state.strip() in first and second.split() == ["b", "finished", "48"]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_of_a_table_is_lost_at_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    columns = ["images", "rate", "left", "rec", "KL", "fake", "restarts"]
    values = ["1,234,567,890 / 2,500,000,000", "1,234.5/s", "3d04h", "0.0123", "123", "456", "2"]
    rows = [TableRow("runs/" + "a-long-name-" * 9, "failed process 0 on node-17: ValueError: " + "word " * 20, values)]
    rows.append(TableRow("runs/b", "running on n1", ["1", "", "", "", "", "", ""]))
    show(columns, rows)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= width
    assert "…" not in printed and "..." not in printed
    squeezed = re.sub(r"\s", "", printed)
    assert all(value.replace(" ", "") in squeezed for value in values)
    if width < 200:
        assert rows[0].name in squeezed and rows[0].state.replace(" ", "") in squeezed
        assert "\nruns/b  running on n1\n  images 1\n" in printed
