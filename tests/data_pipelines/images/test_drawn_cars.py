"""Drawn cars: pure in (seed, index), classes clearly different, content the same for all models and identifiable."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.images.drawn.cars import BACKGROUND, SIZE, draw_car, name_cars
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.sources.cars3d import AZIMUTHS, ELEVATIONS, VIEWS
from tests.data_pipelines.images.test_drawn import run

MODELS = 8


@pytest.fixture(scope="module")
def cars() -> np.ndarray:
    """[models, azimuths, elevations, 64, 64, 3] in 0..255."""
    images = [draw_car(0, index) for index in range(MODELS * VIEWS)]
    return np.stack(images).reshape(MODELS, AZIMUTHS, ELEVATIONS, SIZE, SIZE, 3)


def test_a_car_is_a_function_of_seed_and_index(cars: np.ndarray) -> None:
    assert cars.dtype == np.uint8
    np.random.seed(7)
    for model, azimuth, elevation in ((7, 23, 3), (0, 0, 0), (3, 5, 2)):
        again = draw_car(0, (model * AZIMUTHS + azimuth) * ELEVATIONS + elevation)
        np.testing.assert_array_equal(again, cars[model, azimuth, elevation])
    assert (draw_car(1, 5 * 4) != cars[0, 5, 0]).mean() > 0.1
    assert (draw_car(2**63, 2**40) != cars[0, 0, 0]).mean() > 0.05


def test_a_car_stands_free_before_a_plain_background(cars: np.ndarray) -> None:
    edge = np.ones((SIZE, SIZE), bool)
    edge[1:-1, 1:-1] = False
    assert (cars[..., edge, :] == BACKGROUND).all()
    shown = (cars != BACKGROUND).any(axis=-1).mean(axis=(-1, -2))
    assert shown.min() > 0.08
    assert shown.max() < 0.5


def test_models_have_their_own_colours_from_everywhere(cars: np.ndarray) -> None:
    """A picture's mean colour off the background is nearer to those of its own model than to others', mostly."""
    shown = (cars != BACKGROUND).any(axis=-1)[..., None]
    colours = (cars * shown).sum(axis=(3, 4)) / shown.sum(axis=(3, 4))  # [models, azimuths, elevations, 3]
    centres = colours.mean(axis=(1, 2))
    nearest = np.linalg.norm(colours[..., None, :] - centres, axis=-1).argmin(axis=-1)
    assert (nearest == np.arange(MODELS)[:, None, None]).mean() > 0.7  # by chance 0.125


def silhouettes(cars: np.ndarray) -> np.ndarray:
    return (cars != BACKGROUND).any(axis=-1).astype(float)


def test_elevation_and_azimuth_are_the_same_for_all_models(cars: np.ndarray) -> None:
    """Silhouettes alone tell the azimuth up to front and back (180 degrees) and the elevation, by other models."""
    flat = silhouettes(cars).reshape(MODELS, VIEWS, -1)
    right_elevation, near_azimuth = [], []
    for model in range(MODELS):
        others = np.delete(flat, model, axis=0).mean(axis=0)
        found = ((flat[model][:, None] - others[None]) ** 2).sum(axis=-1).argmin(axis=1)
        azimuth, elevation = np.divmod(np.arange(VIEWS), ELEVATIONS)
        turned = (found // ELEVATIONS - azimuth) % (AZIMUTHS // 2)
        near_azimuth.append(np.minimum(turned, AZIMUTHS // 2 - turned) <= 1)
        right_elevation.append(np.abs(found % ELEVATIONS - elevation) <= 1)
    assert np.mean(near_azimuth) > 0.9  # by chance 0.25
    assert np.mean(right_elevation) > 0.9


def test_lamps_tell_front_from_back(cars: np.ndarray) -> None:
    """Pale yellow is seen at azimuths 0 and 1 from some height, bright red at 12 and 13, and no lamp there."""

    def seen(colour: tuple[int, int, int], azimuths: list[int]) -> np.ndarray:
        near = np.abs(cars[:, azimuths].astype(int) - colour).max(axis=-1) < 36
        return near.any(axis=(2, 3, 4)).all(axis=1)

    lamp, tail = (245, 234, 171), (205, 21, 29)
    assert seen(lamp, [0, 1]).all()
    assert seen(tail, [12, 13]).all()
    from_behind = np.abs(cars[:, [12]].astype(int) - lamp).max(axis=-1) < 20
    assert from_behind.any(axis=(-1, -2)).mean() < 0.5  # a sign on the roof has the colour of lamps


def test_a_mirrored_car_is_the_one_from_the_other_side(cars: np.ndarray) -> None:
    shapes = silhouettes(cars)
    other = shapes[:, -np.arange(AZIMUTHS) % AZIMUTHS][..., ::-1]
    assert np.abs(shapes - other).mean() < 0.003
    assert np.abs(shapes - shapes[..., ::-1]).mean() > 0.05


def test_names_are_split_by_models() -> None:
    name = name_cars(183 * VIEWS)
    assert name(0) == "train/car-000/azimuth-00-elevation-0"
    assert name(162 * VIEWS + 95) == "train/car-162/azimuth-23-elevation-3"
    assert name(163 * VIEWS + 7) == "test/car-163/azimuth-01-elevation-3"
    assert name_cars(2 * VIEWS)(VIEWS).startswith("test/car-001/")
    assert name_cars(1001 * VIEWS)(0).startswith("train/car-0000/")
    for count in (VIEWS, 3 * VIEWS + 1, 50):
        with pytest.raises(ValueError, match=r"^each car has 96 images: draw a multiple of that, and at least 192 "):
            name_cars(count)


@pytest.mark.slow
def test_drawn_cars_become_a_set_with_models_as_classes(tmp_path: Path) -> None:
    code, _, err = run("cars", tmp_path / "wrong", "--count", 100)
    assert (code, err) == (
        1, "error: each car has 96 images: draw a multiple of that, and at least 192 for two cars\n"
    )  # fmt: skip
    assert not (tmp_path / "wrong").exists()
    assert run("cars", tmp_path / "cars", "--count", 3 * VIEWS)[0] == 0
    prepare(tmp_path / "cars", tmp_path / "cars64", PrepareSettings(resolution=64))
    manifest = Manifest.load(tmp_path / "cars64")
    assert manifest.classes == tuple(f"car-{model:03d}" for model in range(3))
    assert (manifest.train, manifest.test) == (2 * VIEWS, VIEWS)
    labels = np.load(tmp_path / "cars64" / "labels.npy")
    assert set(labels[: manifest.train]) == {0, 1}
    assert set(labels[manifest.train :]) == {2}
