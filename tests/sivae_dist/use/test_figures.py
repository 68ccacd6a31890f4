"""Pictures of a model: every image where it belongs, and labels that cover none of them."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data_pipelines.images.ranges import to_unit
from sivae_dist.models import Stage
from sivae_dist.models.style import StyleSettings
from sivae_dist.use import figures
from sivae_dist.use.figures import Sheet, animation
from sivae_dist.use.figures.animation import closed_walk
from sivae_dist.use.figures.grids import to_picture
from sivae_dist.use.pretrained import Pretrained

SETTINGS = StyleSettings(
    resolution=16, latent=8, base_width=4, max_width=8, encoder_mapping=2, decoder_mapping=2, to_rgb_gain=1.0
)
WHITE = (255, 255, 255)
SIDE, GAP = 64, 2
"""Of what is smaller than 64 px."""


@pytest.fixture(scope="module")
def model() -> Pretrained:
    return Pretrained(SETTINGS, *SETTINGS.build(0), Stage(16), 1_234_000)


def plain(value: float, resolution: int = 16) -> Tensor:
    """An image of one grey."""
    return torch.full((3, resolution, resolution), value * 2 - 1)


def pixels(picture: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(picture)


def shown(image: Tensor, side: int = SIDE) -> NDArray[np.uint8]:
    """An image [C, R, R] as it stands in a picture."""
    return pixels(to_picture(to_unit(image)).convert("RGB").resize((side, side), Image.Resampling.NEAREST))


def cell(sheet: Sheet, row: int, column: int) -> NDArray[np.uint8]:
    """What stands at a place of a sheet without labels and wide gaps."""
    top, left = (GAP + k * (SIDE + GAP) for k in (row, column))
    return pixels(sheet.draw(labels=False))[top : top + SIDE, left : left + SIDE]


def assert_shows(got: Tensor | None, want: Tensor) -> None:
    """The same but for rounding, which differs between batches."""
    assert got is not None
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


# Grids.


def test_grids_and_rows() -> None:
    images, others = torch.zeros(5, 3, 4, 4), torch.ones(5, 3, 4, 4)
    rows = figures.in_rows(images, others, columns=3)
    assert rows[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1]  # filled up with white
    assert figures.grid(rows, 3).shape == (3, 4 * 5 + 1, 3 * 5 + 1)
    assert to_unit(torch.tensor([-3.0, -1, 0, 1, 2])).tolist() == [0, 0, 0.5, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("count", "columns", "side"), [(1, 4, 8), (2, 4, 8), (7, 3, 64), (8, 4, 100)])
def test_a_grid_is_torchvisions(channels: int, count: int, columns: int, side: int) -> None:
    from torchvision.utils import make_grid

    images = torch.randn(count, channels, side, side + 2, generator=torch.Generator().manual_seed(0))
    want = make_grid(to_unit(images), nrow=columns, padding=max(1, (side + 2) // 32), pad_value=1.0)
    assert torch.equal(figures.grid(images, columns), want)


@pytest.mark.parametrize("channels", [1, 3])
def test_png_files_have_the_values(tmp_path: Path, channels: int) -> None:
    image = torch.linspace(0, 1, channels * 12).reshape(channels, 3, 4)
    figures.save_picture(tmp_path / "new" / "image.png", image)
    read = pixels(Image.open(tmp_path / "new" / "image.png")).reshape(3, 4, channels)
    assert (read == (image * 255).round().permute(1, 2, 0).numpy()).all()
    figures.save_picture(tmp_path / "again.png", Image.open(tmp_path / "new" / "image.png"))
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "new" / "image.png").read_bytes()


# Sheets.


def test_images_stand_in_rows_and_columns() -> None:
    images = torch.rand(5, 3, 16, 16) * 2 - 1
    sheet = Sheet([list(images[:3]), [None, *images[3:]]])
    assert sheet.draw(labels=False).size == (3 * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + GAP)
    for number, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]):
        assert (cell(sheet, row, column) == shown(images[number])).all()
    assert (cell(sheet, 1, 0) == 255).all()


@pytest.mark.parametrize(("resolution", "side", "gap"), [(4, 64, 2), (64, 64, 2), (128, 128, 4), (256, 256, 8)])
def test_small_images_are_enlarged(resolution: int, side: int, gap: int) -> None:
    picture = pixels(Sheet([[plain(0.2, resolution)]]).draw())
    assert picture.shape == (side + 2 * gap, side + 2 * gap, 3)
    assert (picture[gap:-gap, gap:-gap] == 51).all()


def test_images_of_several_sizes_are_shown_at_one() -> None:
    picture = pixels(Sheet([[plain(0.2, 4), plain(0.4, 128)]]).draw())
    assert ((picture == 51).all(2).sum(), (picture == 102).all(2).sum()) == (128 * 128, 128 * 128)


def test_grey_images() -> None:
    assert (pixels(Sheet([[torch.full((1, 64, 64), -1.0)]]).draw())[2:-2, 2:-2] == 0).all()


def test_gaps_can_be_wide() -> None:
    cells = [[plain(0.2)] * 3] * 2
    usual, wide = Sheet(cells).draw(), Sheet(cells, column_breaks=frozenset([2]), row_breaks=frozenset([1])).draw()
    assert (wide.width - usual.width, wide.height - usual.height) == (4 * GAP, 4 * GAP)


LONG = "a label that is much wider than its image"


@pytest.mark.parametrize("resolution", [16, 128])
@pytest.mark.parametrize(
    "labels",
    [
        {"columns": [f"{LONG}\nin two lines, gjpq", "", "b"]},
        {"rows": ["a long label of a row", "0"]},
        {"captions": [["0", "gjpq", LONG], ["", "", ""]]},
        {"captions": [["", "", ""], ["0", "gjpq", "1"]], "note": "a note of many words that is broken up, " * 5},
        {"note": "anotethatisonesinglewordandmuchwiderthanallthreeimagestogetherandthereforemakesthepicturewider" * 3},
    ],
    ids=["columns", "rows", "captions", "note", "word"],
)
def test_labels_cover_no_image_and_stay_inside(resolution: int, labels: dict[str, Any]) -> None:
    greys = [[25 * (3 * row + column + 1) for column in range(3)] for row in range(2)]
    sheet = Sheet([[plain(grey / 255, resolution) for grey in row] for row in greys], **labels)
    picture = pixels(sheet.draw())
    side = max(resolution, SIDE)
    for grey in (grey for row in greys for grey in row):
        columns, rows = (np.flatnonzero((picture == grey).all(2).sum(axis) >= side) for axis in (0, 1))
        assert (len(columns), len(rows)) == (side, side)
        assert (picture[rows][:, columns] == grey).all()
    assert picture.size > pixels(sheet.draw(labels=False)).size
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 255).all()


def test_labels_that_are_not_there_take_no_room() -> None:
    cells = [[plain(0.2)] * 2]
    assert Sheet(cells, columns=["", ""], rows=[""], captions=[["", ""]]).draw().size == Sheet(cells).draw().size
    labelled = Sheet(cells, columns=["a", ""], rows=["b"], captions=[["c", ""]], note="d")
    assert labelled.draw(labels=False).tobytes() == Sheet(cells).draw().tobytes()
    noted = Sheet(cells, note="a note of many words that is broken into lines").draw()
    assert noted.width == Sheet(cells).draw().width


# What a model does.


def test_samples_in_a_row(model: Pretrained) -> None:
    sheet = figures.samples(model, range(2, 7), seed=3, columns=3)
    assert [len(row) for row in sheet.cells] == [3, 2]
    for number, image in enumerate(image for row in sheet.cells for image in row):
        assert_shows(image, model.sample(1, 3, first=2 + number)[0])
    assert list(sheet.rows) == ["2", "5"]
    assert "seed 3" in sheet.note and "1,234,000 images seen" in sheet.note and "16 px" in sheet.note
    assert sheet.draw().tobytes() == figures.samples(model, range(2, 7), seed=3, columns=3).draw().tobytes()


def test_samples_by_number(model: Pretrained) -> None:
    sheet = figures.samples(model, [9, 2, 9], columns=2, truncation=[0.5])
    assert [list(row) for row in sheet.captions] == [["9", "2"], ["9"]]
    assert not sheet.rows
    assert_shows(sheet.cells[0][1], model.sample(1, first=2, truncation=0.5)[0])
    assert "ψ = 0.5" in sheet.note


def test_a_column_for_each_truncation(model: Pretrained) -> None:
    sheet = figures.samples(model, [4, 7], truncation=[0, 0.7, 1])
    assert (list(sheet.columns), list(sheet.rows)) == (["ψ = 0", "ψ = 0.7", "ψ = 1"], ["4", "7"])
    for row, number in enumerate([4, 7]):
        for column, psi in enumerate([0, 0.7, 1]):
            assert_shows(sheet.cells[row][column], model.sample(1, first=number, truncation=psi)[0])


def test_style_mixing_shows_both_sources(model: Pretrained) -> None:
    sheet = figures.style_mixing(model, [1, 2], [5, 6, 7], seed=3, cutoff=3)
    mixed = model.style_mix(model.latents(1, 2, 3), model.latents(5, 3, 3), 3)
    assert sheet.cells[0][0] is None
    for row in range(2):
        assert_shows(sheet.cells[row + 1][0], model.sample(1, 3, first=1 + row)[0])
        for column in range(3):
            assert_shows(sheet.cells[0][column + 1], model.sample(1, 3, first=5 + column)[0])
            assert_shows(sheet.cells[row + 1][column + 1], mixed[row, column])
    assert (list(sheet.columns), list(sheet.rows)) == (["", "5", "6", "7"], ["", "1", "2"])
    assert "rows: layers 1-3 (4-8 px), columns: layers 4-6 (8-16 px)" in sheet.note
    half = figures.style_mixing(model, [1], [5], truncation=0.5)
    assert_shows(half.cells[1][1], model.style_mix(model.latents(1, 1), model.latents(5, 1), 3, truncation=0.5)[0, 0])
    with pytest.raises(ValueError, match="between layers 1 and 5"):
        figures.style_mixing(model, [1], [5], cutoff=6)


@pytest.mark.parametrize("space", ["z", "w"])
def test_interpolation_between_samples(model: Pretrained, space: Any) -> None:
    sheet = figures.interpolation(model, model.latents(0, 4), ["a", "b", "c", "d"], steps=3, space=space)
    square = model.interpolate(model.latents(0, 4), 3, space)
    for row in range(4):
        for column in range(4):
            assert_shows(sheet.cells[row][column], square[row, column])
    assert list(sheet.columns) == ["a", "", "", "b"]
    assert list(sheet.captions[3]) == ["c", "", "", "d"]
    assert f"linear in {space}, 3 steps" in sheet.note


def test_images_that_were_encoded_stand_beside_theirs(model: Pretrained) -> None:
    real = [plain(0.1), plain(0.2), None, plain(0.4)]
    sheet = figures.interpolation(model, model.latents(0, 4), ["a", "b", "c", "d"], real, steps=2)
    square = model.interpolate(model.latents(0, 4), 2)
    for row in range(3):
        for column in range(3):
            assert_shows(sheet.cells[row][column + 1], square[row, column])
    outer = [image for row in sheet.cells for image in (row[0], row[-1])]
    assert all(got is want for got, want in zip(outer, [*real[:2], None, None, *real[2:]], strict=True))
    assert list(sheet.columns) == ["real", "a", "", "b", "real"]
    assert list(sheet.captions[2]) == ["", "c", "", "d", "real"]
    assert sheet.column_breaks == {1, 4}


def test_reconstructions_stand_to_the_right(model: Pretrained) -> None:
    real = torch.rand(5, 3, 16, 16) * 2 - 1
    sheet = figures.reconstructions(model, real, columns=2, origin="test data")
    assert [len(row) for row in sheet.cells] == [4, 4, 2]
    reconstructed = model.reconstruct(real)
    for number in range(5):
        row, column = number // 2, 2 * (number % 2)
        assert torch.equal(sheet.cells[row][column], real[number])  # type: ignore[arg-type]
        assert torch.equal(sheet.cells[row][column + 1], reconstructed[number])  # type: ignore[arg-type]
    assert sheet.column_breaks == {2}
    assert "left: real, right: reconstruction, test data" in sheet.note
    sheet.draw()


def test_growth_marks_what_is_cut_off(model: Pretrained) -> None:
    def at(stage: Stage, images: int) -> Pretrained:
        return Pretrained(SETTINGS, model.encoder, model.decoder, stage, images)

    models = [at(Stage(4), 90), at(Stage(8), 20), at(Stage(16, torch.tensor(0.25)), 90)]
    sheet = figures.growth(models, [3, 5], seed=2)
    assert list(sheet.columns) == ["4 px\n90 images*", "8 px\n20 images", "16 px\n90 images\nblend 0.25"]
    assert list(sheet.rows) == ["3", "5"]
    assert "* the last network cut off" in sheet.note
    for row, number in enumerate([3, 5]):
        for column, grown in enumerate(models):
            assert_shows(sheet.cells[row][column], grown.sample(1, 2, first=number)[0])
    assert "*" not in figures.growth(models[1:], [3]).note
    sheet.draw()


def test_notes_tell_of_live_weights_and_transitions(model: Pretrained) -> None:
    live = Pretrained(SETTINGS, model.encoder, model.decoder, Stage(16, torch.tensor(0.5)), 8, live=True)
    assert figures.samples(live, [0]).note.endswith("8 images seen, 16 px, blend 0.50, live weights")


# Walks.


@pytest.mark.parametrize("stops", [2, 3, 4, 5, 8])
def test_a_walk_passes_through_its_stops_and_closes(stops: int) -> None:
    weights = closed_walk(stops, 10)
    assert weights.shape == (10 * stops, stops)
    torch.testing.assert_close(weights[::10], torch.eye(stops, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(10 * stops, dtype=torch.float64))
    lengths = (weights.roll(-1, 0) - weights).norm(dim=1)  # the last one closes it
    if stops > 2:  # between two it swings to and fro
        assert lengths.max() < 2.2 * lengths.min()
    bends = (weights.roll(-1, 0) - 2 * weights + weights.roll(1, 0)).norm(dim=1)
    assert bends.max() < 0.4 * lengths.max()  # without corners, at which it would be about as large


def test_a_gif_shows_every_frame_for_ever(model: Pretrained, tmp_path: Path) -> None:
    path = tmp_path / "new" / "walk.gif"
    assert figures.animate(model, path, 1, walks=3, stops=2, frames=4, columns=2, truncation=0.9) == 8
    with Image.open(path) as film:
        assert (film.n_frames, film.info["loop"], film.info["duration"]) == (8, 0, 40)  # type: ignore[attr-defined]
        stops = []
        for frame in (0, 4):
            film.seek(frame)
            stops.append(pixels(film.convert("RGB")).astype(int))
    assert stops[0].shape == (2 * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + GAP, 3)
    for walk in range(3):
        top, left = (GAP + k * (SIDE + GAP) for k in divmod(walk, 2))
        for stop, frame in enumerate(stops):
            want = shown(model.sample(1, 1, first=2 * walk + stop, truncation=0.9)[0]).astype(int)
            assert np.abs(frame[top : top + SIDE, left : left + SIDE] - want).mean() < 8  # of 256 colours
    assert list(path.parent.iterdir()) == [path]


def test_an_mp4_can_be_read_again(model: Pretrained, tmp_path: Path) -> None:
    path = tmp_path / "walk.mp4"
    assert figures.animate(model, path, walks=1, stops=3, frames=5, fps=20) == 15
    film = cv2.VideoCapture(str(path))
    assert film.get(cv2.CAP_PROP_FPS) == 20
    frames = []
    while (read := film.read())[0]:
        frames.append(read[1][..., ::-1].astype(int))
    film.release()
    assert len(frames) == 15
    want = shown(model.sample(1)[0]).astype(int)
    assert np.abs(frames[0][GAP : GAP + SIDE, GAP : GAP + SIDE] - want).mean() < 12
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["walk.webm", "walk", "gif"])
def test_other_films_are_refused(model: Pretrained, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"the format is chosen; write one of \.gif, \.mp4$"):
        figures.animate(model, tmp_path / name)
    with pytest.raises(ValueError, match="at least two stops"):
        figures.animate(model, tmp_path / "walk.gif", stops=1)
    assert not list(tmp_path.iterdir())


def test_without_an_encoder_mp4_is_refused(model: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoWriter:
        fourcc = cv2.VideoWriter.fourcc

        def __init__(self, path: str, *_: object) -> None:
            Path(path).write_bytes(b"begun")

        def isOpened(self) -> bool:
            return False

        def release(self) -> None:
            pass

    monkeypatch.setattr(animation.cv2, "VideoWriter", NoWriter)
    with pytest.raises(ValueError, match=r"no encoder for MP4 here; name a \.gif"):
        figures.animate(model, tmp_path / "walk.mp4", walks=1, stops=2, frames=2)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_film_leaves_what_was_there(
    model: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "walk.gif"
    path.write_bytes(b"the one before")
    monkeypatch.setattr(Sheet, "draw", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        figures.animate(model, path, walks=1, stops=2, frames=2)
    assert [(p, p.read_bytes()) for p in tmp_path.iterdir()] == [(path, b"the one before")]
