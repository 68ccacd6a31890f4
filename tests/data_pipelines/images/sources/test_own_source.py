"""A kind of source that code outside the package adds is prepared as ours are."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_pipelines.images.manifest import Manifest
from data_pipelines.images.opening import open_store
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.reader import Reader
from data_pipelines.images.sources import Source, listing_of
from data_pipelines.images.sources.findings import Findings
from data_pipelines.images.sources.opening import SOURCES, Place, open_source

SIDE, COUNT = 8, 10


class SpriteSource(Source):
    """One file of RGB sprites, one after the other; even ones are of class `even`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.found = Findings("sprites")
        count = path.stat().st_size // (3 * SIDE * SIDE)
        names = [f"{number:03d}" for number in range(count)]
        self.listing = listing_of(
            names, [3 * SIDE * SIDE] * count, ("even", "odd"), [number % 2 for number in range(count)]
        )

    def read(self, i: int) -> NDArray[np.uint8]:
        sprites = np.fromfile(self._path, np.uint8).reshape(-1, SIDE, SIDE, 3)
        return sprites[i]


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other tests see our own list alone."""
    monkeypatch.setattr(SOURCES, "_kinds", dict(SOURCES))

    @SOURCES.add("sprites")
    def sprites(place: Place) -> Source | None:
        where = place.path / "all.sprites" if place.is_folder else place.path
        return SpriteSource(where) if where.suffix == ".sprites" and where.is_file() else None

    yield


@pytest.fixture
def pixels(tmp_path: Path) -> NDArray[np.uint8]:
    """Of `all.sprites`, in a folder that our own kinds would take."""
    drawn = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    (tmp_path / "folder").mkdir()
    drawn.tofile(tmp_path / "folder" / "all.sprites")
    return drawn


@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", "folder/all.sprites"])
@pytest.mark.parametrize("workers", [1, 2])
def test_it_is_prepared(pixels: NDArray[np.uint8], tmp_path: Path, where: str, workers: int) -> None:
    settings = PrepareSettings(resolution=SIDE, shard_size=4)
    made = prepare(tmp_path / where, tmp_path / "set", settings, workers)
    assert made == Manifest.load(tmp_path / "set")
    assert (made.samples, made.classes) == (COUNT, ("even", "odd"))
    assert made.found is not None and made.found.kind == "sprites"
    with open_store(str(tmp_path / "set")) as store:
        stored = Reader(store, made, SIDE).pixels(range(COUNT))
    np.testing.assert_array_equal(stored, pixels.transpose(0, 3, 1, 2))


def test_it_is_asked_before_our_own(pixels: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_source(str(tmp_path / "folder")), SpriteSource)
    monkeypatch.setattr(SOURCES, "_kinds", {name: kind for name, kind in SOURCES.items() if name != "sprites"})
    with pytest.raises(ValueError, match="folder"):
        open_source(str(tmp_path / "folder"))
