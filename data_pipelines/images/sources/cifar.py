"""CIFAR-10's and CIFAR-100's batches for Python, in a folder or in the archive that they come in.

A batch is a pickle. Only what theirs hold is ever made of it: whatever else a pickle asks for is refused unseen, and
NumPy's arrays are put together here from their bytes, so that nothing in it is called.
"""

import hashlib
import io
import pickle
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr  # of a few dozen characters
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data_pipelines.images.sources import Labels, SourceError, listing_of
from data_pipelines.images.sources.findings import Findings
from data_pipelines.images.sources.parts import Parts, PartsSource, read_part
from data_pipelines.images.sources.spool import Spool
from data_pipelines.images.sources.tar_members import members

SIDE = 32
_ROW = 3 * SIDE * SIDE

_MAX_FILE = 1 << 28
"""Bytes of a batch; CIFAR-100's one for training has 155 million."""


@dataclass(frozen=True)
class _Layout:
    folder: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: bytes
    class_names: bytes
    classes: int


_LAYOUTS = (
    _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        "test_batch",
        "batches.meta",
        b"labels",
        b"label_names",
        10,
    ),
    _Layout("cifar-100-python", ("train",), "test", "meta", b"fine_labels", b"fine_label_names", 100),
)


Files = dict[str, tuple[Path, int, int]]
"""By name, the file that holds it, where it starts there, and its bytes."""


def is_member(name: str) -> bool:
    """Whether an archive that starts with this member is one of CIFAR's."""
    return name.removeprefix("./").split("/")[0] in {layout.folder for layout in _LAYOUTS}


def find(path: Path) -> Files | None:
    """The batches in a folder, or in the sub-folder to which they are unpacked; None when there are none."""
    for layout in _LAYOUTS:
        for folder in (path, path / layout.folder):
            if all(_is_pickle(folder / name) for name in (layout.train[0], layout.test)):
                return {file.name: (file, 0, file.stat().st_size) for file in folder.iterdir() if file.is_file()}
    return None


def find_in_tar(tar: Path, where: str) -> Files:
    """The batches in an archive. Raises SourceError when it is damaged."""
    return {
        posixpath.basename(member.name): (tar, member.offset, member.size)
        for member in members(tar, where)
        if member.kind == "file"
    }


def _is_pickle(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(1) == pickle.PROTO


class CifarSource(PartsSource):
    """CIFAR's images, those for training first; the test batch is the source's own test split.

    A sample is called after its split and its number there, `train/00000`. Labels are CIFAR-100's fine ones; classes
    have the names that the archive gives them, else numbers. The spool gets all pixels in one plain file.
    """

    def __init__(self, where: str, files: Files, labels: Labels, spool: Spool) -> None:
        """Raises SourceError for a batch that is missing, is damaged, or holds anything but images and labels."""
        layout = next(layout for layout in _LAYOUTS if layout.test in files)
        self.found = Findings(f"CIFAR-{layout.classes}")
        batches = [_load_batch(where, files, name, layout) for name in (*layout.train, layout.test)]
        pixels = [rows for rows, _ in batches]
        test = len(pixels[-1])
        train = sum(map(len, pixels)) - test
        names = [f"train/{row:05d}" for row in range(train)] + [f"test/{row:05d}" for row in range(test)]
        self.parts = Parts([_keep(pixels, spool)])
        for row in range(len(names)):
            self.parts.add(0, row * _ROW, _ROW)
        classes: tuple[str, ...] = ()
        numbers: list[int] | None = None
        if labels != "none":
            classes = _load_class_names(where, files, layout)
            numbers = [number for _, batch in batches for number in batch]
        self.listing = listing_of(names, self.parts.size, classes, numbers, [row >= train for row in range(len(names))])

    def content(self, i: int, path: Path, offset: int, size: int) -> NDArray[np.uint8]:
        """uint8 [32, 32, 3], of which a row holds one colour after the other."""
        return np.frombuffer(read_part(path, offset, size), np.uint8).reshape(3, SIDE, SIDE).transpose(1, 2, 0)


def _keep(pixels: list[NDArray[np.uint8]], spool: Spool) -> Path:
    """A file with all the rows: workers read it instead of each being sent a copy of 184 MB."""
    digest = hashlib.sha256()
    for rows in pixels:
        digest.update(rows.data)

    def fill(copy: Path) -> None:
        with copy.open("wb") as file:
            for rows in pixels:
                file.write(rows.data)

    return spool.copy(f"the pixels of CIFAR with SHA-256 {digest.hexdigest()}", fill)


def _load_batch(where: str, files: Files, name: str, layout: _Layout) -> tuple[NDArray[np.uint8], list[int]]:
    """Rows uint8 [n, 3072] and the label of each."""
    batch = _load(where, files, name)
    array, labels = batch.get(b"data"), batch.get(layout.labels)
    rows = array.rows() if isinstance(array, _Array) else None
    if rows is None:
        raise SourceError(
            f"{name} in {where} holds no uint8 pixels [n, {_ROW}] (its data is {_described(array)}): get it again"
        )
    if isinstance(labels, _Array):
        labels = labels.integers()
    if not isinstance(labels, list) or len(labels) != len(rows):
        raise SourceError(f"{name} in {where} does not hold a label for each of its {len(rows)} images: get it again")
    for label in labels:
        if type(label) is not int or not 0 <= label < layout.classes:
            raise SourceError(f"{name} in {where} holds the label {repr(label)}: they are 0 to {layout.classes - 1}")
    return rows, labels


def _load_class_names(where: str, files: Files, layout: _Layout) -> tuple[str, ...]:
    if layout.meta not in files:
        return tuple(str(k) for k in range(layout.classes))
    names = _load(where, files, layout.meta).get(layout.class_names)
    try:
        if not isinstance(names, list) or len(set(names)) != layout.classes:
            raise ValueError
        texts = tuple(name.decode() if isinstance(name, bytes) else name for name in names)
        if not all(text.isprintable() for text in texts):
            raise ValueError
        return texts
    except (ValueError, TypeError, AttributeError):
        raise SourceError(
            f"{layout.meta} in {where} does not hold {layout.classes} names of classes: get it again or remove it"
        ) from None


# Pickles.


def _load(where: str, files: Files, name: str) -> dict[Any, Any]:
    if name not in files:
        raise SourceError(f"{where} lacks {name}: get it again")
    path, offset, size = files[name]
    if size > _MAX_FILE:
        raise SourceError(f"{name} in {where} has {size} bytes, more than {_MAX_FILE}: it is not a CIFAR batch")
    data = read_part(path, offset, size)
    try:
        content = _Unpickler(data).load()
    except Exception as error:  # unpickling raises nearly anything on damaged input
        if isinstance(error, MemoryError):
            raise
        reason = " ".join(str(error)[:200].split()) or type(error).__name__
        raise SourceError(f"{name} in {where} is damaged or has unexpected content ({reason})") from None
    if not isinstance(content, dict):
        raise SourceError(f"{name} in {where} has unexpected content (a {type(content).__name__})")
    # Python 2 wrote the real ones, whose text is bytes; Python 3 writes text.
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


class _Array:
    """A NumPy array as a pickle describes it."""

    __slots__ = ("_state",)

    def __setstate__(self, state: object) -> None:
        self._state = state

    def __repr__(self) -> str:
        match getattr(self, "_state", None):
            case (_, tuple(shape), _Type() as kind, order, *_):
                return f"an array of type {repr(kind.text)} and shape {repr(shape)}" + " in columns" * (order is True)
        return "an array without pixels"

    def rows(self) -> NDArray[np.uint8] | None:
        """It as uint8 [n, 3072], n > 0; None when it is anything else."""
        match getattr(self, "_state", None):
            case (_, (int(count), int(width)), _Type(name="u1" | b"u1"), False | 0, bytes(data) | bytearray(data)):
                if width == _ROW and len(data) == count * width > 0:
                    return np.frombuffer(data, np.uint8).reshape(count, width)
        return None

    def integers(self) -> list[int] | None:
        """It as a list of integers; None when it is not one row of them."""
        match getattr(self, "_state", None):
            case (_, (int(count),), _Type(big=False) as kind, False | 0, bytes(data) | bytearray(data)):
                text = kind.text
                if text in _INTEGERS and len(data) == count * int(text[1]):
                    return [int(number) for number in np.frombuffer(data, f"<{text}")]
        return None


_INTEGERS = frozenset(sign + size for sign in "iu" for size in "1248")


def _described(data: object) -> str:
    return str(data)[:200] if isinstance(data, _Array) else type(data).__name__


def _from_buffer(data: object, kind: object, shape: object, order: object) -> _Array:
    """An array as pickle protocol 5 describes it."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _scalar(kind: object, data: object) -> object:
    """A number of NumPy's, as Python's when it is an integer."""
    array = _Array()
    array.__setstate__((1, (1,), kind, False, data))
    numbers = array.integers()
    return numbers[0] if numbers else array


class _Type:
    """A NumPy type as a pickle describes it."""

    __slots__ = ("big", "name")

    def __init__(self, name: object) -> None:
        self.name = name
        self.big = False

    @property
    def text(self) -> str:
        return self.name.decode(errors="replace") if isinstance(self.name, bytes) else str(self.name)

    def __setstate__(self, state: object) -> None:
        """The order of its bytes, and what does not matter here."""
        self.big = isinstance(state, tuple) and state[1:2] in ((">",), (b">",))


class _Stand:
    """Stands for one of the few functions and types that CIFAR's pickles name, with nothing in it to be changed."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


# The pure-Python one, for its memo is a dict: the one in C makes a table as long as any number in the file says.
class _Unpickler(pickle._Unpickler):
    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="bytes")  # Python 2 wrote them, whose text is bytes
        self._left = self._size = len(data)

    read: Callable[[int], bytes]
    append: Callable[[object], None]

    def _load_bytearray(self) -> None:
        """Like the original, but checks the length that the file claims before allocating it."""
        size = int.from_bytes(self.read(8), "little")
        if size > self._size:
            raise pickle.UnpicklingError(f"a bytearray of {size} bytes in a file of {self._size}")
        self.append(bytearray(self.read(size)))

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _load_bytearray}

    def find_class(self, module: str, name: str) -> Any:
        match (module, name):
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct"):
                return _Stand(lambda kind, shape, letter: _Array())
            case ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer"):
                return _Stand(_from_buffer)
            case ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar"):
                return _Stand(_scalar)
            case ("numpy", "ndarray"):
                return _Stand(lambda: None)
            case ("numpy", "dtype"):
                return _Stand(lambda name, align, copy: _Type(name))
            case ("_codecs", "encode"):  # how Python 3 writes bytes as protocol 2
                return _Stand(self._encode)
        raise pickle.UnpicklingError(f"{module}.{name}")

    def _encode(self, text: str, encoding: str) -> bytes:
        self._left -= len(text)
        if encoding != "latin1" or self._left < 0:  # the same long text over and over
            raise pickle.UnpicklingError("_codecs.encode")
        return text.encode("latin1")
