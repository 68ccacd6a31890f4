import gzip
import pickle
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data_pipelines.images.prepare import prepare
from data_pipelines.images.sources import SourceError, gzipped
from data_pipelines.images.sources import idx as idx_module
from data_pipelines.images.sources.opening import open_source
from tests.command import TEST_DATA, fetched
from tests.data_pipelines.images.sources.making import small

FASHION = Path("usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts the files, below the root."""


def idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def grey(seed: int, count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 28, 20), np.uint8)


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    for split, count in (("train", 12), ("t10k", 4)):
        write(tmp_path / "mnist" / f"{split}-images-idx3-ubyte.gz", idx(grey(count, count)))
        write(tmp_path / "mnist" / f"{split}-labels-idx1-ubyte.gz", idx(np.arange(count, dtype=np.uint8) % 10))
    return tmp_path / "mnist"


@pytest.mark.parametrize("style", ["{}-{}-idx{}-ubyte.gz", "{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
def test_images_labels_and_split(tmp_path: Path, style: str) -> None:
    for split, count in (("train", 12), ("t10k", 4)):
        write(tmp_path / "m" / style.format(split, "images", 3), idx(grey(count, count)))
        write(tmp_path / "m" / style.format(split, "labels", 1), idx(np.arange(count, dtype=np.uint8) % 10))
    source = pickle.loads(pickle.dumps(open_source(str(tmp_path / "m"), spool=tmp_path / "spool")))
    listing = source.listing
    assert list(listing.names) == [f"train/{i:05d}" for i in range(12)] + [f"t10k/{i:05d}" for i in range(4)]
    assert [listing.label(i) for i in range(16)] == [*range(10), 0, 1, 0, 1, 2, 3]
    assert listing.classes == tuple("0123456789")
    assert listing.test.tolist() == [False] * 12 + [True] * 4
    np.testing.assert_array_equal(
        [source.read(i) for i in range(16)], np.concatenate([grey(12, 12), grey(4, 4)])[..., None]
    )
    assert (tmp_path / "spool").exists() == style.endswith(".gz")


def test_prepared(mnist: Path, tmp_path: Path) -> None:
    manifest = prepare(mnist, tmp_path / "out", small(channels=1, resolution=8))
    assert (manifest.train, manifest.test, len(manifest.classes)) == (12, 4, 10)
    assert prepare(mnist, tmp_path / "own", small(channels=1, resolution=8, test=3, labels="none")).test == 3
    assert not (tmp_path / "own" / "labels.npy").exists()


@pytest.mark.parametrize("below", ["MNIST", "."])
def test_where_torchvision_puts_them(mnist: Path, tmp_path: Path, below: str) -> None:
    """Packed and unpacked beside each other, in `raw`."""
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.parent.mkdir(parents=True)
    mnist.rename(raw)
    (raw / "t10k-images-idx3-ubyte").write_bytes(gzip.decompress((raw / "t10k-images-idx3-ubyte.gz").read_bytes()))
    source = open_source(str(tmp_path / "data" / below), spool=tmp_path / "spool")
    assert len(source) == 16 and source.listing.test is not None and source.listing.test.sum() == 4


def test_several_of_torchvisions_sets_are_named(mnist: Path, tmp_path: Path) -> None:
    for name in ("MNIST", "FashionMNIST"):
        shutil.copytree(mnist, tmp_path / "data" / name / "raw")
    with pytest.raises(
        SourceError, match=r"several sets, .*FashionMNIST/raw/\*, .*MNIST/raw/\*: give the folder of one"
    ):
        open_source(str(tmp_path / "data"))


def test_emnist_is_turned_upright(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        write(tmp_path / "e" / f"emnist-letters-{split}-images-idx3-ubyte", idx(grey(count, count)))
        write(tmp_path / "e" / f"emnist-letters-{split}-labels-idx1-ubyte", idx(np.arange(count, dtype=np.uint8)))
    source = open_source(str(tmp_path / "e"))
    np.testing.assert_array_equal(source.read(3), grey(2, 2)[0].T[..., None])
    assert source.listing.test is not None and source.listing.test.tolist() == [False] * 3 + [True] * 2
    assert "turned upright" in source.found.notes[0]
    write(tmp_path / "e" / "emnist-digits-train-images-idx3-ubyte.gz", idx(grey(0, 2)))
    with pytest.raises(SourceError, match=r"holds several sets, .*emnist-letters-\*, .*emnist-digits-\*"):
        open_source(str(tmp_path / "e"))


def test_parts_may_be_missing(mnist: Path, tmp_path: Path) -> None:
    (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(SourceError, match="only some of its images have a file of labels"):
        open_source(str(mnist), spool=tmp_path / "spool")
    assert len(open_source(str(mnist), "none", spool=tmp_path / "spool")) == 16
    (mnist / "t10k-images-idx3-ubyte.gz").unlink()
    listing = open_source(str(mnist), spool=tmp_path / "spool").listing
    assert len(listing) == 12 and listing.test is None
    write(mnist / "t10k-labels-idx1-ubyte", idx(np.zeros(4, np.uint8)))
    with pytest.raises(SourceError, match="t10k-labels-idx1-ubyte has no images beside it"):
        open_source(str(mnist), spool=tmp_path / "spool")


def test_a_plain_file_is_taken_before_its_gz(mnist: Path, tmp_path: Path) -> None:
    write(mnist / "train-images-idx3-ubyte", idx(grey(1, 12)))
    np.testing.assert_array_equal(open_source(str(mnist), spool=tmp_path / "spool").read(0)[..., 0], grey(1, 12)[0])  # type: ignore[call-overload]


WHOLE = idx(grey(0, 12))
DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not an IDX file with 3 axes"),
    "cut": (WHOLE[:-1], "claims .12, 28, 20., which its|damaged .only 6735 of 6736"),
    "more": (WHOLE + b"x", "claims .12, 28, 20., which its|damaged .more of 6736"),
    "only a header": (WHOLE[:16], "claims|damaged"),
    "other numbers": (WHOLE[:2] + b"\x0d" + WHOLE[3:], "is not an IDX file with 3 axes of bytes"),
    "other axes": (idx(np.zeros(12, np.uint8)), "is not an IDX file with 3 axes"),
    "a huge claim": (struct.pack(">HBB3I", 0, 8, 3, *[0xFFFFFFFF] * 3) + bytes(100), "claims .4294967295"),
    "no images": (idx(grey(0, 0)), "holds no images"),
    "images of nothing": (struct.pack(">HBB3I", 0, 8, 3, 12, 0, 28), "holds no images"),
    "another count": (idx(grey(0, 11)), "labels-idx1-ubyte.gz has 12 labels for 11 images"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_damage_is_named(mnist: Path, tmp_path: Path, damage: str, ending: str) -> None:
    data, message = DAMAGE[damage]
    write(mnist / f"train-images-idx3-ubyte{ending}", data)
    with pytest.raises(SourceError, match=rf"train-images-idx3-ubyte{ending} .*({message})|{message}") as error:
        open_source(str(mnist), spool=tmp_path / "spool")
    assert "\n" not in str(error.value) and "mnist/train-" in str(error.value)


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-100], lambda data: data[:5], lambda data: data[:50] + bytes(50) + data[100:]]
)
def test_damaged_gzip(mnist: Path, tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    path = mnist / "train-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(SourceError, match=r"train-images-idx3-ubyte\.gz is damaged \(.*: get it again") as error:
        open_source(str(mnist), spool=tmp_path / "spool")
    assert "\n" not in str(error.value)


def test_what_is_packed_is_written_no_further_than_it_claims(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(mnist / "train-images-idx3-ubyte.gz", WHOLE + bytes(50 << 20))
    written: list[int] = []

    def noting(path: Path, dest: Path, size: int | None = None) -> None:
        try:
            gzipped.unpack(path, dest, size)
        finally:
            written.append(dest.stat().st_size)

    monkeypatch.setattr(idx_module, "unpack", noting)
    with pytest.raises(SourceError, match="more of 6736 bytes"):
        open_source(str(mnist), spool=tmp_path / "spool")
    assert len(written) == 1 and written[0] < 2 << 20


@pytest.fixture
def fashion() -> Path:
    """Of the installed package, or of one that is unpacked into the cache of test data, once a machine."""
    package = TEST_DATA / "dataset-fashion-mnist"
    for root in (Path("/"), package):
        if (root / FASHION).is_dir():
            return root / FASHION
    TEST_DATA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TEST_DATA) as folder:
        script = "apt-get download -q dataset-fashion-mnist && dpkg-deb -x *.deb unpacked"
        fetched("sh", "-c", script, folder=Path(folder))
        Path(folder, "unpacked").rename(package)
    return package / FASHION


@pytest.mark.realdata
def test_fashion_mnist(fashion: Path, tmp_path: Path) -> None:
    source = open_source(str(fashion), spool=tmp_path / "spool")
    listing = source.listing
    assert len(listing) == 70_000 and listing.test is not None and listing.test.sum() == 10_000
    assert listing.labels is not None and np.bincount(listing.labels).tolist() == [7000] * 10
    assert len(listing.classes) == 10 and listing.classes[8:] == ("Bag", "Ankle boot")
    # Its first images are known: an ankle boot and two tops; a boot, a pullover and two trousers of the test split.
    assert [listing.classes[listing.labels[i]] for i in (0, 1, 2)] == ["Ankle boot", "T-shirt/top", "T-shirt/top"]
    first_of_test = [listing.classes[listing.labels[60_000 + i]] for i in range(4)]
    assert first_of_test == ["Ankle boot", "Pullover", "Trouser", "Trouser"]
    with gzip.open(fashion / "t10k-images-idx3-ubyte.gz") as file:
        last = np.frombuffer(file.read(), np.uint8)[-784:].reshape(28, 28, 1)
    np.testing.assert_array_equal(source.read(69_999), last)
    total = sum(int(np.asarray(source.read(i)).sum()) for i in range(60_000))
    # The mean of its training pixels, which everybody who normalizes by it quotes as 0.2860.
    assert round(total / (60_000 * 784 * 255), 4) == 0.2860
