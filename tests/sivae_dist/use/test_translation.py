"""Content transfer by trained networks: the methods, the picture and the command."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.prepare import PrepareSettings, prepare
from sivae_dist.models import Stage
from sivae_dist.models.mlp import MlpSettings
from sivae_dist.models.translation import TranslationSettings
from sivae_dist.use import figures
from sivae_dist.use.figures import real
from sivae_dist.use.pretrained import Pretrained
from tests.painted import CONTENTS, SIDE, TEST, TRAIN, painted, reader

SMALL = TranslationSettings(
    resolution=32, class_latent=5, content_latent=3, widths=[2, 3, 4, 6], hidden_units=7, decoder_width=8, last_width=4
)


@pytest.fixture(scope="module")
def model() -> Pretrained:
    return Pretrained(SMALL, *SMALL.build(0), Stage(32), 1000)


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_transfer_takes_the_class_of_one_and_the_content_of_the_other(model: Pretrained) -> None:
    a, b = images(3, 0), images(3, 1)
    codes = model.encode(a)[0], model.encode(b)[0]
    wanted = model.decode(torch.cat((codes[0][:, :5], codes[1][:, 5:]), 1))
    torch.testing.assert_close(model.transfer(a, b, batch=2), wanted)
    torch.testing.assert_close(model.transfer(a, a), model.reconstruct(a))
    assert (model.transfer(b, a) - wanted).abs().max() > 1e-3
    assert {name: list(part.shape) for name, part in model.groups(codes[0]).items()} == {
        "class": [3, 5],
        "content": [3, 3],
    }


def test_translate_is_transfer_of_each_with_each(model: Pretrained) -> None:
    rows, columns = images(3, 0), images(2, 1)
    sheet = model.translate(rows, columns, batch=4)
    assert sheet.shape == (3, 2, 3, 32, 32)
    for row in range(3):
        for column in range(2):
            one = model.transfer(rows[row : row + 1], columns[column : column + 1])[0]
            torch.testing.assert_close(sheet[row, column], one, rtol=1e-3, atol=1e-4)


def test_other_models_have_no_such_codes() -> None:
    settings = MlpSettings()
    plain = Pretrained(settings, *settings.build(0), Stage(1), 0)
    assert plain.groups(torch.zeros(2, 2)) == {}
    for method in (plain.transfer, plain.translate):
        with pytest.raises(ValueError, match="a model of the kind mlp has no codes of class and content"):
            method(torch.zeros(1, 2), torch.zeros(1, 2))


def test_the_sheet_has_classes_in_rows_and_contents_in_columns(tmp_path: Path) -> None:
    data = ImageSettings(path=str(painted(tmp_path / "set")))
    (rows, names), (columns, below) = real.for_translation(reader(), data, 2)
    assert names == ["kind-4", "kind-5"] and below == ["pose-0", "pose-2"]
    # The contents are of a class that no row has.
    assert columns[:, 0, 0, 0].tolist() == pytest.approx([30 * 6 / 127.5 - 1] * 2)
    sheet = figures.translated(reader(), rows, columns, (names, below))
    assert sheet.cells[0][0] is None and list(sheet.rows) == ["", *names] and list(sheet.columns) == ["", *below]
    for row, kind in enumerate((4, 5), 1):
        for column, pose in enumerate((0, 2), 1):
            cell = sheet.cells[row][column]
            assert cell is not None
            left, right = (cell[0, 0, place].item() for place in (0, -1))
            assert (left, right) == pytest.approx((30 * kind / 127.5 - 1, 40 * pose / 127.5 - 1), abs=1e-5)
    assert sheet.draw().width > sheet.draw(labels=False).width
    (rows, names), (columns, below) = real.for_translation(reader(), data, 9)
    assert len(names) == TEST and len(below) == CONTENTS


def test_the_columns_show_all_of_a_factor_that_comes_round(tmp_path: Path) -> None:
    """Of 24 azimuths in 4 elevations, as Cars3D has them, equal steps would show one or two elevations."""
    for car, azimuth, elevation in product(("train/a", "test/b"), range(24), range(4)):
        path = tmp_path / "source" / car / f"azimuth-{azimuth:02d}-elevation-{elevation}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (azimuth, elevation, 0)).save(path)
    prepare(tmp_path / "source", tmp_path / "set", PrepareSettings(resolution=SIDE, labels="folders"))
    data = ImageSettings(path=str(tmp_path / "set"))
    for count in (4, 6, 8, 12):
        (_, names), (_, below) = real.for_translation(reader(), data, count)
        assert names == ["b"] and len(set(below)) == count
        azimuths, elevations = ([int(name.split("-")[place]) for name in below] for place in (1, 3))
        assert len(set(elevations)) >= 3 and len(set(azimuths)) == count
        assert max(np.diff([*azimuths, 24 + azimuths[0]])) <= 48 / count


def test_long_names_above_columns_are_folded() -> None:
    names = ["pose-1", "a" * 20, "front view of the car", "azimuth_07_elevation_3", "azimuth-07-elevation-3"]
    contents = torch.zeros(len(names), 3, SIDE, SIDE)
    folded = ["pose-1", "a" * 20, "front view\nof the car", "azimuth_07_\nelevation_3", "azimuth-07-\nelevation-3"]
    assert figures.translated(reader(), contents[:1], contents, ((), names)).columns == ["", *folded]


def test_without_names_contents_have_none(tmp_path: Path) -> None:
    data = ImageSettings(path=str(painted(tmp_path / "set", named=False)))
    (_, names), (columns, below) = real.for_translation(reader(), data, 2)
    assert names == [f"kind-{TRAIN}", f"kind-{TRAIN + 1}"] and below == ["", ""] and len(columns) == 2


def test_files_as_they_are(tmp_path: Path) -> None:
    pixels = np.full((SIDE, SIDE, 3), 200, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    x = real.from_files(reader(), [tmp_path / "grey.png"])
    torch.testing.assert_close(reader().transfer(x, x), x)
