"""The table and sentences of docs/theory.md, and the command that makes them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sivae_dist.theory.__main__ import main
from sivae_dist.theory.game import Game
from sivae_dist.theory.report import gammas, line, measure
from sivae_dist.use.figures.plots import PAPER_DPI

PAGE = Path(__file__).parents[3] / "docs" / "theory.md"
GIVEN = ("--data", "0.6", "0.4", "--prior", "0.5", "0.5")
EXAMPLE = Game([0.4, 0.25, 0.15, 0.12, 0.08], [0.5, 0.3, 0.2])


def test_the_page_has_what_is_measured() -> None:
    """As far as it is no rounding."""
    for text in (line(measure(Game(EXAMPLE.data, EXAMPLE.prior, 1, 0.2))), gammas(EXAMPLE)):
        assert "|".join(text.split("|")[:5]) in PAGE.read_text()


@pytest.mark.slow
def test_the_page_has_all_that_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers below 1e-9 are rounding, which also decides by one or two when all is still."""
    main([])
    printed = capsys.readouterr().out.splitlines()
    page = PAGE.read_text().splitlines()
    start = page.index(printed[0])
    assert len(printed) == 14 and printed[:2] == page[start : start + 2] and not page[start + 12]
    for row, shown in zip(printed[2:12], page[start + 2 : start + 12], strict=True):
        (*exact, gap), rest = cells(row)
        (*of_page, gap_of_page), rest_of_page = cells(shown)
        assert exact == of_page
        assert [text.endswith("not still") for text in rest] == [text.endswith("not still") for text in rest_of_page]
        for found, expected in zip((gap, *rest), (gap_of_page, *rest_of_page), strict=True):
            assert number(found) == pytest.approx(number(expected), rel=0.1, abs=1e-9)
    assert all(f"    {sentence}" in page for sentence in printed[12:])


def cells(row: str) -> tuple[list[str], list[str]]:
    """The first five of a row, and the others."""
    texts = [text.strip() for text in row.strip("|").split("|")]
    return texts[:5], texts[5:]


def number(text: str) -> float:
    return float(text.removesuffix(", not still").replace(",", ""))


def test_the_command_prints_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    main([*GIVEN, "--alpha", "2", "--gamma", "0.1", "0.2", "--seed", "1"])
    printed = capsys.readouterr().out.splitlines()
    assert [row[: len("| 2 | 0.1 |")] for row in printed[2:4]] == ["| 2 | 0.1 |", "| 2 | 0.2 |"]
    game = Game([0.6, 0.4], [0.5, 0.5], 2, 0.2)
    assert printed[3] == line(measure(game, 1)) != line(measure(game, 2))
    assert printed[4].startswith("alpha 2: Assumption 5 holds up to gamma ") and len(printed) == 5


@pytest.mark.slow
def test_the_command_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*GIVEN, "--alpha", "1", "--gamma", "0.1", "--out", str(tmp_path / "new")])
    drawn = [Path(path) for path in capsys.readouterr().out.splitlines()[-3:]]
    assert {path.parent for path in drawn} == {tmp_path / "new"}
    assert {path.name for path in drawn} == {path.name for path in (PAGE.parent / "figures").glob("theory-*")}
    for path in drawn:
        picture = Image.open(path)
        colors = picture.getcolors(1 << 20)
        assert colors is not None and len(colors) > 20 and picture.height == 3.5 * PAPER_DPI


@pytest.mark.slow
def test_the_command_draws_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sivae_dist.theory.figures.STEPS", 10)
    monkeypatch.setattr("sivae_dist.theory.figures._GAMMAS", np.linspace(0, 1, 3))
    main([*GIVEN, "--alpha", "1", "--gamma", "0.1", "--out", str(tmp_path), "--format", "svg"])
    drawn = sorted(tmp_path.iterdir())
    assert [path.name for path in drawn] == ["theory-encoder.svg", "theory-gamma.svg", "theory-paths.svg"]
    assert all("<svg " in path.read_text() for path in drawn)


def test_what_is_no_game_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--data", "0.6", "0.6"])
    assert "data sums to 1.2" in capsys.readouterr().err
