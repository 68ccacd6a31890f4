"""Real images for pictures: from files, or from the test split of a data set."""

import difflib
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_pipelines.dataset import Dataset, DatasetSettings, SampleError, Samples
from data_pipelines.images.decode import halve, round_pixels
from data_pipelines.images.loader import to_images
from data_pipelines.images.sources import ImageError
from data_pipelines.images.sources.folder import FolderSource
from data_pipelines.images.sources.image import to_square
from data_pipelines.problems import did_you_mean

if TYPE_CHECKING:
    from sivae_dist.use.pretrained import Pretrained


def files_in(folder: Path, count: int) -> list[Path]:
    """The first images of a folder, in the order in which `sivae data prepare` takes them."""
    return [folder / name for name in FolderSource(folder, "none").listing.names[:count]]


def from_files(model: "Pretrained", paths: Sequence[Path]) -> Tensor:
    """Image files [N, C, R, R] in [-1, 1] as `sivae data prepare` stores them for this model at its stage.

    ValueError naming a file that is no usable image.
    """
    channels, side = model.settings.shape(model.settings.final_resolution)[:2]
    pixels = []
    for path in paths:
        _check_file(path)
        try:
            square = to_square(path.read_bytes(), channels, side)
        except ImageError as error:
            raise ValueError(f"{path} {error}") from None
        while square.shape[0] > model.stage.resolution:
            square = halve(square)
        pixels.append(round_pixels(square).transpose(2, 0, 1))
    return to_images(torch.from_numpy(np.stack(pixels)))


def _check_file(path: Path) -> None:
    """ValueError for a path that is no file, with the nearest one there is."""
    if path.is_dir():
        raise ValueError(f"{path} is a directory, not an image")
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        near = [str(path.with_name(name)) for name in difflib.get_close_matches(path.name, beside, n=1)]
        raise ValueError(f"there is no image {path}{did_you_mean(near)}")


def classes_of(model: "Pretrained", paths: Sequence[Path], given: str | None = None) -> Tensor | None:
    """Labels [N] of image files: of the class `given`, or else of those that their folders are called; None when the
    model has none. ValueError when there is no such class, or none is wanted."""
    if given is not None or not model.class_names:
        return model.labelled(len(paths), given)
    for path in paths:
        if path.absolute().parent.name not in model.class_names:
            raise ValueError(
                f"{path}: the model is told the class of an image, and its folder is not called like one of "
                f"{', '.join(model.class_names[:5])}{', ...' * (len(model.class_names) > 5)}: name it with --class"
            )
    return model.labelled(len(paths), [path.absolute().parent.name for path in paths])


def from_test_split(model: "Pretrained", settings: DatasetSettings, count: int) -> tuple[Tensor, Tensor | None]:
    """The first test samples [N, C, R, R] in [-1, 1] of the data set that the model was trained on, and their labels
    [N] where it has classes.

    ValueError when it is another data set or has no test samples, SampleError for a damaged one, OSError when it is
    not there.
    """
    with _with_test_split(model, settings) as data:
        found = _sound(data.samples(model.stage.resolution, range(data.train, data.train + min(count, data.test))))
        return found.x, found.y if model.class_names else None


Named = tuple[Tensor, list[str]]
"""Images [N, C, R, R] in [-1, 1] with their names."""


def for_translation(model: "Pretrained", settings: DatasetSettings, count: int) -> tuple[Named, Named]:
    """Test images of up to `count` classes, and up to `count` of one further class, or of the last of these, spread
    over its images; by the names of classes and contents, as far as there are any. Raises as
    `from_test_split`."""
    with _with_test_split(model, settings) as data:
        numbers = np.arange(data.train, data.train + data.test)
        labels = _sound(data.samples(min(data.spec.shapes), numbers)).y
        kinds = np.zeros(len(numbers), np.int64) if labels is None else labels.numpy()
        by_class = [numbers[kinds == kind] for kind in np.unique(kinds)]
        chosen, others = by_class[:count], by_class[min(count, len(by_class) - 1)]
        rows = [of_class[len(of_class) // 3] for of_class in chosen]
        columns = _spread(others, count)
        contents = data.contents()
        names = [data.spec.classes[kinds[row - data.train]] if data.spec.classes else "" for row in rows]
        below = ["" if contents is None else contents[column] or "" for column in columns]
        x = _sound(data.samples(model.stage.resolution, [*rows, *columns])).x
        return (x[: len(rows)], names), (x[len(rows) :], below)


def _spread(numbers: NDArray[np.int64], count: int) -> list[int]:
    """Up to `count` of them, well spread: those whose places, times the golden ratio, have the smallest fractions.
    Equal steps might all meet the same value of a factor that comes round again, such as the elevation of a car."""
    fractions = np.arange(len(numbers)) * (math.sqrt(5) - 1) / 2 % 1
    found: list[int] = numbers[np.sort(np.argsort(fractions)[:count])].tolist()
    return found


@contextmanager
def _with_test_split(model: "Pretrained", settings: DatasetSettings) -> Iterator[Dataset]:
    """The data set that a model was trained on. ValueError when it is another one, or has no test samples."""
    with settings.open(0, torch.device("cpu")) as data:
        if model.data is not None and data.digest != model.data:
            raise ValueError(f"{data.where} is not the data set that this model was trained on; name images instead")
        if not data.test:
            raise ValueError(f"{data.where} has no test split; name images instead")
        yield data


def _sound(found: Samples) -> Samples:
    """SampleError when one of them is damaged."""
    for fault in found.damaged.values():
        raise SampleError(fault)
    return found
