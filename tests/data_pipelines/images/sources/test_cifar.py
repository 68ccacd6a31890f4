import gzip
import os
import pickle
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_pipelines.images.prepare import prepare
from data_pipelines.images.sources import SourceError, cifar
from data_pipelines.images.sources.opening import open_source
from tests.data_pipelines.images.sources.making import small, tar_bytes, write_folder

CIFAR10 = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
CLASSES = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]


def images(seed: int, count: int = 4) -> NDArray[np.uint8]:
    """[n, 32, 32, 3]"""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), np.uint8)


def rows(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(len(pixels), -1)


def batch(seed: int, **changes: Any) -> dict[bytes, Any]:
    content: dict[bytes, Any] = {
        b"batch_label": b"training batch 1 of 5",
        b"labels": [(seed + i) % 10 for i in range(4)],
        b"data": rows(images(seed)),
        b"filenames": [b"leptodactylus_pentadactylus_s_%06d.png" % i for i in range(4)],
    }
    return content | {key.encode(): value for key, value in changes.items()}


def cifar10() -> dict[str, bytes]:
    files = {name: pickle.dumps(batch(k), 2) for k, name in enumerate(CIFAR10)}
    meta = {b"num_cases_per_batch": 4, b"label_names": CLASSES, b"num_vis": 3072}
    return {"batches.meta": pickle.dumps(meta, 2), "readme.html": b"<meta>"} | files


def cifar100() -> dict[str, bytes]:
    files = {}
    for k, name in enumerate(("train", "test")):
        content = batch(k, fine_labels=[0, 99, 7, k], coarse_labels=[1, 2, 3, 4])
        del content[b"labels"]
        files[name] = pickle.dumps(content, 2)
    meta = {b"fine_label_names": [b"fine %d" % k for k in range(100)], b"coarse_label_names": [b"c"] * 20}
    return {"meta": pickle.dumps(meta, 2), "file.txt~": b""} | files


def archive(path: Path, folder: str, files: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    header = tarfile.TarInfo(folder)
    header.type = tarfile.DIRTYPE
    data = tar_bytes({folder: header} | {f"{folder}/{name}": content for name, content in files.items()})
    if mode == "w:gz":
        data = gzip.compress(data)
    path.write_bytes(data)
    return path


def as_archive(tmp_path: Path, files: Mapping[str, bytes], folder: str) -> Path:
    return archive(tmp_path / "cifar.tar.gz", folder, files)


def as_tar(tmp_path: Path, files: Mapping[str, bytes], folder: str) -> Path:
    return archive(tmp_path / "cifar.tar", folder, files, "w")


def as_folder(tmp_path: Path, files: Mapping[str, bytes], folder: str) -> Path:
    return write_folder(tmp_path / folder, files)


def as_folder_in_a_folder(tmp_path: Path, files: Mapping[str, bytes], folder: str) -> Path:
    write_folder(tmp_path / "data" / folder, files)
    return tmp_path / "data"


FORMS = [as_archive, as_tar, as_folder, as_folder_in_a_folder]
Form = Callable[[Path, Mapping[str, bytes], str], Path]


@pytest.mark.parametrize("form", FORMS)
def test_cifar10(tmp_path: Path, form: Form) -> None:
    where = form(tmp_path, cifar10(), "cifar-10-batches-py")
    source = pickle.loads(pickle.dumps(open_source(str(where), spool=tmp_path / "spool")))
    listing = source.listing
    assert list(listing.names) == [f"train/{i:05d}" for i in range(20)] + [f"test/{i:05d}" for i in range(4)]
    assert [listing.label(i) for i in range(24)] == [(k + i) % 10 for k in range(6) for i in range(4)]
    assert listing.classes == tuple(name.decode() for name in CLASSES)
    assert listing.test.tolist() == [False] * 20 + [True] * 4
    np.testing.assert_array_equal([source.read(i) for i in range(24)], np.concatenate([images(k) for k in range(6)]))
    assert len(pickle.dumps(source)) < 5000  # the pixels are not in it


@pytest.mark.parametrize("form", FORMS)
def test_cifar100_has_its_fine_labels(tmp_path: Path, form: Form) -> None:
    where = form(tmp_path, cifar100(), "cifar-100-python")
    listing = open_source(str(where), spool=tmp_path / "spool").listing
    assert listing.classes == tuple(f"fine {k}" for k in range(100))
    assert [listing.label(i) for i in range(8)] == [0, 99, 7, 0, 0, 99, 7, 1]
    assert listing.test is not None and listing.test.tolist() == [False] * 4 + [True] * 4


def test_prepared(tmp_path: Path) -> None:
    where = as_archive(tmp_path, cifar10(), "cifar-10-batches-py")
    manifest = prepare(where, tmp_path / "out", small(resolution=32, array_max_resolution=32))
    assert (manifest.train, manifest.test) == (20, 4)
    stored = np.concatenate([np.load(tmp_path / "out" / file.name) for file in manifest.levels[32].files])
    np.testing.assert_array_equal(stored, np.concatenate([images(k) for k in range(6)]).transpose(0, 3, 1, 2))


def test_python_2_wrote_the_real_ones(tmp_path: Path) -> None:
    """Its strings are another kind of opcode, and its integers may be."""
    data = rows(images(3))
    as_text = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x01K\x02I3\nK\x04eU\x04dataq\x04"
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07"
        b"(K\x01K\x04M\x00\x0c\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87Rq\x09"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x30\x00\x00" + data.tobytes() + b"tbu."
    )
    assert pickle.loads(as_text, encoding="bytes")[b"labels"] == [1, 2, 3, 4]
    where = as_folder(tmp_path, cifar10() | {"data_batch_2": as_text}, "c")
    source = open_source(str(where), spool=tmp_path / "spool")
    assert [source.listing.label(i) for i in range(4, 8)] == [1, 2, 3, 4]
    np.testing.assert_array_equal(np.array([source.read(i) for i in range(4, 8)]), images(3))


@pytest.mark.parametrize("protocol", range(5))
def test_every_protocol_that_holds_arrays_by_value(tmp_path: Path, protocol: int) -> None:
    files = {
        name: pickle.dumps(batch(k), max(protocol, 2) if name in ("data_batch_1", "test_batch") else protocol)
        for k, name in enumerate(CIFAR10)
    }
    source = open_source(str(as_folder(tmp_path, files, "c")), spool=tmp_path / "spool")
    np.testing.assert_array_equal(source.read(5), images(1)[1])
    assert source.listing.classes == tuple("0123456789")  # there is no batches.meta


@pytest.mark.parametrize("protocol", range(2, 6))
def test_written_anew_with_python_3(tmp_path: Path, protocol: int) -> None:
    """Text for keys and names, labels as an array or as NumPy's numbers, pixels that may be written to or not."""
    labels = [
        np.arange(4),
        [np.uint8(3), np.int64(2), 1, 0],
        np.arange(4, dtype=np.uint8),
        np.arange(4, dtype=np.int32),
        [0, 1, 2, 3],
        np.arange(4),
    ]
    files = {}
    for k, name in enumerate(CIFAR10):
        pixels = rows(images(k))
        pixels.flags.writeable = k % 2 == 0
        files[name] = pickle.dumps({"data": pixels, "labels": labels[k], "filenames": ["a"] * 4}, protocol)
    files["batches.meta"] = pickle.dumps({"label_names": [name.decode() for name in CLASSES]}, protocol)
    source = open_source(str(as_folder(tmp_path, files, "c")), spool=tmp_path / "spool")
    assert [source.listing.label(i) for i in range(8)] == [0, 1, 2, 3, 3, 2, 1, 0]
    assert source.listing.classes == tuple(name.decode() for name in CLASSES)
    np.testing.assert_array_equal([source.read(i) for i in range(24)], np.concatenate([images(k) for k in range(6)]))


@pytest.mark.parametrize("data", [rows(images(0)).astype(">i4"), np.asfortranarray(rows(images(0))), images(0)])
@pytest.mark.parametrize("protocol", [2, 5])
def test_what_is_odd_is_named(tmp_path: Path, data: NDArray[Any], protocol: int) -> None:
    files = cifar10() | {"data_batch_3": pickle.dumps({"data": data, "labels": [0] * 4}, protocol)}
    with pytest.raises(
        SourceError, match=r"holds no uint8 pixels \[n, 3072\] \(its data is an array of type '[ui][14]'"
    ):
        open_source(str(as_folder(tmp_path, files, "c")), spool=tmp_path / "spool")


def test_options(tmp_path: Path) -> None:
    where = str(as_folder(tmp_path, cifar10(), "c"))
    assert open_source(where, "none", spool=tmp_path / "spool").listing.classes == ()
    with pytest.raises(SourceError, match="is CIFAR and has no sub-folders"):
        open_source(where, "folders")
    with pytest.raises(SourceError, match="is CIFAR, but --member"):
        open_source(where, member="png")


# What does not belong.


class Call:
    """Unpickled, it calls something."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self._reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self._reduced


def malice(folder: Path) -> dict[str, bytes]:
    marker = str(folder / "executed")
    touch = f"touch {marker}"
    return {
        "os.system": pickle.dumps({b"data": Call(os.system, touch)}, 2),
        "eval": pickle.dumps({b"data": Call(eval, f"open({marker!r}, 'w')")}, 4),
        "in a label": pickle.dumps(batch(0, labels=[0, 1, 2, Call(os.system, touch)]), 2),
        "as a key": pickle.dumps({Call(os.system, touch): 1}, 2),
        "what other files of NumPy's hold": b"\x80\x02cnumpy.f2py.crackfortran\nmyeval\n" + b"X\x01\x00\x00\x001\x85R.",
        "a path of attributes": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
        "by a registered code": b"\x80\x02\x82\x01.",
        "a persistent name": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "old instances": b"(S'touch " + marker.encode() + b"'\nios\nsystem\n.",
        "numpy.load": b"\x80\x02cnumpy\nload\nX\x01\x00\x00\x00a\x85R.",
        "a buffer's function": b"\x80\x05cnumpy._core.numeric\n_frombuffer\n(cos\nsystem\ntR.",
        "builtins": b"\x80\x02c__builtin__\ngetattr\n.",
    }


@pytest.mark.parametrize("kind", malice(Path()))
def test_nothing_is_executed(tmp_path: Path, kind: str) -> None:
    where = as_folder(tmp_path, cifar10() | {"data_batch_3": malice(tmp_path)[kind]}, "c")
    with pytest.raises(SourceError, match=r"^data_batch_3 in .* has unexpected content") as error:
        open_source(str(where), spool=tmp_path / "spool")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


def test_stands_for_numpy_cannot_be_changed() -> None:
    """Pickles set attributes of what they were given: here of what stands for NumPy's function."""
    data = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}X\x05\x00\x00\x00_call}sb."
    with pytest.raises((AttributeError, pickle.UnpicklingError)):
        cifar._Unpickler(data).load()
    before = cifar._Unpickler.find_class
    data = b"\x80\x02cnumpy\ndtype\nNX\x09\x00\x00\x00__class__cnumpy\nndarray\ns\x86b."
    with pytest.raises(Exception):  # noqa: B017
        cifar._Unpickler(data).load()
    assert cifar._Unpickler.find_class is before


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\x00\x00\x00\x04.",  # kept as the 67,108,864th of a table
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00abc.",  # a long string
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7fabc.",  # a long array of bytes
        b"\x80\x02X\x00\x00\x01\x00" + b"a" * 65536 + b"q\x01X\x06\x00\x00\x00latin1q\x020"
        b"(" + b"c_codecs\nencode\nh\x01h\x02\x86R" * 3000 + b"t.",  # the same text anew, 200 MB in all
    ],
    ids=["memo", "string", "bytearray", "encode"],
)
def test_memory_does_not_grow_with_what_a_pickle_says(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="has unexpected content"):
            with_file(data)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def with_file(data: bytes) -> object:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return cifar._load("c", {"b": (Path(file.name), 0, len(data))}, "b")


def dump(content: object) -> bytes:
    return pickle.dumps(content, 2)


PIXELS = rows(images(0))
WRONG: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("data_batch_3", None, "lacks data_batch_3"),
    "cut": ("data_batch_3", dump(batch(0))[:5000], "data_batch_3 in .* is damaged or has unexpected content"),
    "empty": ("data_batch_3", b"", "data_batch_3 in .* is damaged or has unexpected content"),
    "no pickle": ("data_batch_3", b"text", "data_batch_3 in .* is damaged or has unexpected content"),
    "a list": ("data_batch_3", dump([1]), r"has unexpected content \(a list\)"),
    "no data": ("data_batch_3", dump({b"labels": []}), "holds no uint8 pixels"),
    "floats": ("data_batch_3", dump(batch(0, data=PIXELS.astype(np.float32))), "holds no uint8 pixels"),
    "signed": ("data_batch_3", dump(batch(0, data=PIXELS.astype(np.int8))), "holds no uint8 pixels"),
    "narrow": ("data_batch_3", dump(batch(0, data=PIXELS[:, 1:])), "holds no uint8 pixels"),
    "flat": ("data_batch_3", dump(batch(0, data=PIXELS.reshape(-1))), "holds no uint8 pixels"),
    "columns": ("data_batch_3", dump(batch(0, data=np.asfortranarray(PIXELS))), "holds no uint8 pixels"),
    "no images": ("data_batch_3", dump(batch(0, data=PIXELS[:0], labels=[])), "has unexpected content"),
    "objects": ("data_batch_3", dump(batch(0, data=PIXELS.astype(object))), "holds no uint8 pixels"),
    "bytes": ("data_batch_3", dump(batch(0, data=PIXELS.tobytes())), "holds no uint8 pixels"),
    "few labels": ("data_batch_3", dump(batch(0, labels=[1])), "a label for each of its 4 images"),
    "no labels": ("data_batch_3", dump(batch(0, labels=None)), "a label for each of its 4 images"),
    "a large label": ("test_batch", dump(batch(0, labels=[0, 1, 2, 10])), "holds the label 10: they are 0 to 9"),
    "a negative label": ("test_batch", dump(batch(0, labels=[0, 1, 2, -1])), "holds the label -1"),
    "a label that is none": ("test_batch", dump(batch(0, labels=[0, 1, 2, True])), "holds the label True"),
    "a long label": ("test_batch", dump(batch(0, labels=[0, 1, 2, b"x" * 10_000])), "holds the label b'xxx"),
    "few names": ("batches.meta", dump({b"label_names": CLASSES[:9]}), "does not hold 10 names of classes"),
    "odd names": ("batches.meta", dump({b"label_names": [*CLASSES[:9], b"a\nb"]}), "does not hold 10 names"),
    "no names": ("batches.meta", dump({}), "does not hold 10 names of classes"),
    "names that are none": ("batches.meta", dump({b"label_names": [*CLASSES[:9], 7]}), "does not hold 10 names"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, wrong: str) -> None:
    name, data, message = WRONG[wrong]
    files = cifar10()
    if data is None:
        del files[name]
    else:
        files[name] = data
    where = as_archive(tmp_path, files, "cifar-10-batches-py")
    with pytest.raises(SourceError, match=message) as error:
        open_source(str(where), spool=tmp_path / "spool")
    text = str(error.value)
    assert "\n" not in text and str(where) in text and name in text and len(text) < 500


def test_large_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = as_folder(tmp_path, cifar10(), "c")
    monkeypatch.setattr(cifar, "_MAX_FILE", 1000)
    with pytest.raises(SourceError, match=r"data_batch_1 in .* bytes, more than 1000"):
        open_source(str(where), spool=tmp_path / "spool")


def test_other_tars_are_not_cifar(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(tar_bytes({}))
    with pytest.raises(SourceError, match=r"empty\.tar holds no images: name the images"):
        open_source(str(tmp_path / "empty.tar"))
