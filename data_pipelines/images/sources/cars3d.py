"""Cars3D: 183 models of cars, each in a MATLAB file of 24 azimuths and 4 elevations.

The files are `cars/*.mat` of nips2015-analogy-data.tar.gz (Reed et al., Deep Visual Analogy-Making, 2015). Each holds
an array `im`, uint8 [height, width, 3, azimuths, elevations].
"""

from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources import ImageError, Labels, Source, SourceError, listing_of
from data_pipelines.images.sources.findings import Findings, is_hidden, shown_name
from data_pipelines.images.sources.formats import has_image_ending
from data_pipelines.images.sources.matlab import Bytes, Piece, find_bytes
from data_pipelines.images.sources.tar_members import members

AZIMUTHS, ELEVATIONS = 24, 4
VIEWS = AZIMUTHS * ELEVATIONS
"""Images of a model."""
MODELS = 183
_TEST_MODELS = 20
"""Of them (appendix 9.3)."""

_VARIABLE = "im"
_FOLDERS = ("", "cars", "data/cars")
"""Below a source, where the files may lie."""


def held_out(models: int) -> int:
    """How many of so many models are for testing: the same share as 20 of 183, at least one; none of a single one."""
    return max(1, round(models * _TEST_MODELS / MODELS)) if models > 1 else 0


def view_name(view: int) -> str:
    """Of view azimuth * ELEVATIONS + elevation."""
    azimuth, elevation = divmod(view, ELEVATIONS)
    return f"azimuth-{azimuth:02d}-elevation-{elevation}"


Models = dict[str, Bytes]
"""By the name of its file without the ending, the array of a model."""


def find(path: Path) -> Models | None:
    """The models in a folder, or in the one to which the archive is unpacked below it; None when there are none.

    Raises SourceError, naming the file, when only some of the MATLAB files are of Cars3D or one is damaged.
    """
    for folder in (path / name for name in _FOLDERS):
        beside = [file for file in folder.iterdir() if not is_hidden(file.name)] if folder.is_dir() else []
        files = sorted(file for file in beside if file.suffix == ".mat" and file.is_file())
        pieces = {file.stem: Piece(file, 0, file.stat().st_size, str(file)) for file in files}
        if found := _models(pieces, sure=all(file.suffix in (".mat", ".txt") for file in beside)):
            return found
    return None


def find_in_tar(tar: Path, where: str) -> Models | None:
    """The models in a tar, whose members are looked at up to the first image; None when there are none before it.
    Raises SourceError as `find`, and for a damaged tar."""
    pieces: dict[str, Piece] = {}
    for member in members(tar, where):
        path = PurePosixPath(member.name)
        if member.kind == "file" and path.suffix == ".mat" and path.parent.name == "cars" and not is_hidden(path.name):
            if path.stem in pieces:
                raise SourceError(f"{where} holds {shown_name(member.name)!r} twice: remove one of them")
            pieces[path.stem] = Piece(tar, member.offset, member.size, f"{shown_name(member.name)} in {where}")
        elif has_image_ending(member.name) and not pieces:
            return None
    return _models(dict(sorted(pieces.items())), sure=True)


def _models(files: dict[str, Piece], sure: bool) -> Models | None:
    """The arrays of files; None unless one of them is of Cars3D. `sure`: they are not there for anything else, so that
    one that cannot be read counts."""
    found: Models = {}
    damaged: list[SourceError] = []
    others: list[SourceError] = []
    for stem, file in files.items():
        try:
            array = find_bytes(file, _VARIABLE)
        except SourceError as error:
            damaged.append(error)
            continue
        if array is not None and len(array.shape) == 5 and array.shape[2:] == (3, AZIMUTHS, ELEVATIONS):
            found[stem] = array
        else:
            shape = f"{_VARIABLE} has the shape {array.shape}" if array else f"there is no {_VARIABLE}"
            wanted = f"bytes {_VARIABLE} [height, width, 3, {AZIMUTHS}, {ELEVATIONS}]"
            others.append(SourceError(f"{file.name} does not hold a model of Cars3D, {wanted} ({shape}): remove it"))
    if damaged and (found or sure):
        raise damaged[0]
    if others and found:
        raise others[0]
    return found or None


class Cars3dSource(Source):
    """The images of Cars3D, model by model in the sorted order of their files; the classes are the models.

    A sample is called after its split, model and view: `train/MODEL/azimuth-03-elevation-1`. The last 20 of 183 models
    are for testing, or as large a share of others; which ones the paper took, it does not say.
    """

    def __init__(self, models: Models, labels: Labels) -> None:
        self._models = list(models.values())
        self._kept: tuple[int, NDArray[np.uint8]] | None = None
        self.found = Findings("Cars3D")
        count = len(models)
        first_test = count - held_out(count)
        test = [k >= first_test for k in range(count) for _ in range(VIEWS)]
        names = [
            f"{'test' if k >= first_test else 'train'}/{stem}/{view_name(view)}"
            for k, stem in enumerate(models)
            for view in range(VIEWS)
        ]
        sizes = [model.piece.size for model in self._models for _ in range(VIEWS)]
        classes = tuple(map(shown_name, models)) if labels != "none" else ()
        numbers = [k for k in range(count) for _ in range(VIEWS)] if classes else None
        self.listing = listing_of(names, sizes, classes, numbers, test if any(test) else None)

    def read(self, i: int) -> NDArray[np.uint8]:
        """uint8 [height, width, 3]."""
        model, view = divmod(i, VIEWS)
        if self._kept is None or self._kept[0] != model:  # images are asked for in order, mostly
            self._kept = None
            try:
                self._kept = model, self._models[model].read()
            except SourceError as error:
                raise ImageError(f"cannot be read: {error}") from None
        azimuth, elevation = divmod(view, ELEVATIONS)
        return np.ascontiguousarray(self._kept[1][..., azimuth, elevation])
