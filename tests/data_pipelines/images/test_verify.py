import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.images.decode import encode
from data_pipelines.images.manifest import INDEX_DTYPE, Manifest
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.verify import Fault, verify
from data_pipelines.images.verify.faults import AT_MOST, condense
from tests.prepared import TAR, Sample, bless, rebuild, replace_image, samples_of

INDEX = TAR.replace(".tar", ".index.npy")
"""Shard 1 holds samples 8..15, row 3 is sample 11."""


def noise(i: int, side: int = 16, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(i).integers(0, 256, (side, side, channels), dtype=np.uint8)


def make(folder: Path, **settings: Any) -> Path:
    """24 images of two classes in three shards, the last one for testing; 4 is an array, 8 and 16 are tars."""
    for i in range(24):
        path = folder / "source" / f"{'ab'[i % 3 == 0]}" / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(i)).save(path)
    known = {"resolution": 16, "array_max_resolution": 4, "shard_size": 8, "test": 8}
    prepare(folder / "source", folder / "set", PrepareSettings.model_validate(known | settings))
    return folder / "set"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "set")
    return tmp_path / "set"


def rows(root: Path, name: str = INDEX) -> Any:
    return np.load(root / name)


def change(path: Path, offset: int, value: bytes | None = None) -> None:
    """Puts other bytes there, or flips one bit."""
    data = bytearray(path.read_bytes())
    value = bytes([data[offset] ^ 1]) if value is None else value
    data[offset : offset + len(value)] = value
    path.write_bytes(data)


def one(root: Path, **options: Any) -> Fault:
    faults = verify(root, **options)
    assert len(faults) == 1, [str(fault) for fault in faults]
    assert "\n" not in str(faults[0])
    return faults[0]


def assert_fault(fault: Fault, file: str, what: str, offset: int | None, key: str | None, sample: int | None) -> None:
    assert (fault.file, fault.offset, fault.key, fault.sample) == (file, offset, key, sample), fault
    assert what in fault.what, fault


# Nothing wrong.


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"format": "jpeg"}, {"channels": 1}, {"labels": "none"}, {"format": "jpeg", "channels": 1}]
)
def test_a_whole_set(tmp_path: Path, settings: dict[str, Any], decode: bool) -> None:
    steps: list[tuple[int, int]] = []
    root = make(tmp_path, **settings)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert verify(root, decode, progress=lambda done, total: steps.append((done, total))) == []
    assert steps[0] == (0, 72) and steps[-1] == (72, 72) and steps == sorted(steps)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_the_fast_way_suffices_for_a_whole_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a whole tar was examined")

    monkeypatch.setattr("data_pipelines.images.verify.shard.Examination", refuse)
    assert verify(root, decode=True) == []


def test_workers_find_the_same(root: Path) -> None:
    for shard in (0, 2):
        change(root / f"0008/shard-0000{shard}.tar", 3 * 512 + 20)
    faults = verify(root, workers=1)
    assert len(faults) == 2
    assert verify(root, workers=2) == faults


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no prepared data set"):
        verify(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        verify(tmp_path)


# Damaged tars.


def member(root: Path, row: int = 3) -> tuple[int, int]:
    offset, size, _ = rows(root)[row].tolist()
    return offset, size


@pytest.mark.parametrize("agreeing", [False, True])
@pytest.mark.parametrize("level", ["0016", "0008"])
def test_cut_between_members(root: Path, agreeing: bool, level: str) -> None:
    offset = int(rows(root, f"{level}/shard-00001.index.npy")[3]["offset"]) - 3 * 512
    os.truncate(root / f"{level}/shard-00001.tar", offset)
    if agreeing:
        bless(root)
    # The key is gone with the member's header: the other level knows it.
    assert_fault(
        one(root), f"{level}/shard-00001.tar", "cut short before this sample; 5 samples are missing", offset,
        key_of(root, 11), 11,
    )  # fmt: skip


def key_of(root: Path, sample: int) -> str:
    """From the smallest tar level and the largest, whichever is whole."""
    for level in ("0008", "0016"):
        try:
            return samples_of(root / f"{level}/shard-{sample // 8:05d}.tar")[sample % 8][0]
        except (tarfile.TarError, IndexError):
            continue
    raise AssertionError


@pytest.mark.parametrize("agreeing", [False, True])
@pytest.mark.parametrize(("back", "what"), [(-10, "inside this member; 5"), (512 + 100, "inside this member; 5")])
def test_cut_inside_a_member(root: Path, agreeing: bool, back: int, what: str) -> None:
    key = key_of(root, 11)
    cut = member(root)[0] - back
    os.truncate(root / TAR, cut)
    if agreeing:
        bless(root)
    assert_fault(one(root), TAR, what, cut, key, 11)


@pytest.mark.parametrize("agreeing", [False, True])
def test_cut_in_the_end_marker_and_in_the_last_sample(root: Path, agreeing: bool) -> None:
    offset, size = member(root, 7)
    end = offset + -(-size // 512) * 512
    for cut, what, sample in (
        (end + 512, "end marker", None), (end, "end marker", None), (offset + size - 1, "inside this member", 15),
    ):  # fmt: skip
        os.truncate(root / TAR, cut)
        if agreeing:
            bless(root)
        fault = one(root)
        assert_fault(fault, TAR, what, cut, key_of(root, 15) if sample else None, sample)
        assert "samples are missing" not in fault.what


@pytest.mark.parametrize("agreeing", [False, True])
@pytest.mark.parametrize(
    ("back", "place"), [(512, 0), (512, 130), (512, 150), (512, 257), (3 * 512, 3), (3 * 512, 260)]
)
def test_flipped_bit_in_a_header(root: Path, agreeing: bool, back: int, place: int) -> None:
    """Of the image and of its label: name, size, checksum, magic."""
    header = member(root)[0] - back
    key = key_of(root, 11)
    change(root / TAR, header + place)
    if agreeing:
        bless(root)
    assert_fault(one(root), TAR, "tar header", header, key, 11)


@pytest.mark.parametrize("agreeing", [False, True])
@pytest.mark.parametrize(
    ("place", "value", "what"),
    [
        (257, b"nomag", "not a tar header"),
        (124, b"00000000001", "another size in its header"),
        (124, b"00000001777", "another size in its header"),
        (7, b":", "has no .png member"),
        (8, b".txt", "has no .png member"),
        (156, b"5", "of something else than a file"),
        (345, b"folder", "has no .png member"),
    ],
)
def test_a_header_that_says_something_else(root: Path, agreeing: bool, place: int, value: bytes, what: str) -> None:
    """With a right checksum."""
    start = member(root)[0] - 512
    change(root / TAR, start + place, value)
    header = (root / TAR).read_bytes()[start : start + 512]
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    change(root / TAR, start + 148, f"{total:06o}\0 ".encode())
    if agreeing:
        bless(root)
    fault = one(root)
    assert (fault.file, fault.sample) == (TAR, 11) and what in fault.what


def test_the_key_of_a_damaged_header_at_the_only_level(tmp_path: Path) -> None:
    """It is taken from the sample's other member, else from the damaged header itself if it looks like one."""
    root = make(tmp_path, array_max_resolution=8)
    key = samples_of(root / TAR)[3][0]
    for back in (512, 3 * 512):
        header = member(root)[0] - back
        change(root / TAR, header + 3)  # in the name
        assert_fault(one(root), TAR, "tar header", header, key, 11)
        change(root / TAR, header + 3)
    unlabelled = make(tmp_path / "unlabelled", array_max_resolution=8, labels="none")
    header, key = member(unlabelled)[0] - 512, samples_of(unlabelled / TAR)[3][0]
    change(unlabelled / TAR, header + 130)
    assert_fault(one(unlabelled), TAR, "tar header", header, key, 11)


def test_headers_in_a_row_are_one_gap(root: Path) -> None:
    start, stop = member(root, 2)[0] - 512, member(root, 5)[0] - 700
    change(root / TAR, start, b"\xff" * (stop - start))
    fault = one(root)
    assert_fault(fault, TAR, "not a tar header, and 4 samples are lost with it", start, key_of(root, 10), 10)


def test_zeros_in_place_of_members(root: Path) -> None:
    """Where tarfile, and with it webdataset, ends without a word."""
    start, stop = member(root, 2)[0] - 3 * 512, member(root, 3)[0] - 3 * 512
    change(root / TAR, start, bytes(stop - start))
    bless(root)
    assert len(samples_of(root / TAR)) == 2
    assert_fault(one(root), TAR, "take the tar to end", start, key_of(root, 10), 10)


def test_flipped_bit_in_an_image(root: Path) -> None:
    offset, _ = member(root)
    change(root / TAR, offset + 50)
    assert_fault(one(root), TAR, "CRC-32", offset, key_of(root, 11), 11)
    bless(root)
    assert verify(root) == []
    assert_fault(one(root, decode=True), TAR, "CRC-32", offset, key_of(root, 11), 11)


def test_flipped_bit_in_padding(root: Path) -> None:
    offset, size = member(root)
    assert size % 512
    change(root / TAR, offset + size + 3)
    assert_fault(one(root), TAR, "other bytes than zeros", offset + size, key_of(root, 11), 11)


def test_flipped_bit_in_a_label(root: Path) -> None:
    offset = member(root)[0] - 1024
    change(root / TAR, offset)
    for _ in range(2):
        assert_fault(one(root), TAR, "another label", offset, key_of(root, 11), 11)
        bless(root)
    change(root / TAR, offset)
    change(root / TAR, offset + 7)
    assert_fault(one(root), TAR, "other bytes than zeros", offset + 1, key_of(root, 11), 11)


@pytest.mark.parametrize("agreeing", [False, True])
def test_bytes_after_the_end(root: Path, agreeing: bool) -> None:
    offset, size = member(root, 7)
    end = offset + -(-size // 512) * 512
    change(root / TAR, end + 1024 + 17)
    if agreeing:
        bless(root)
    assert_fault(one(root), TAR, "end marker with other bytes after it", end, None, None)


def test_a_checksum_that_nothing_explains(root: Path) -> None:
    size = (root / TAR).stat().st_size
    with (root / TAR).open("ab") as file:
        file.write(bytes(512))
    assert_fault(one(root), TAR, f"has {size + 512} bytes instead of {size}, though every", None, None, None)


def test_several_faults_in_one_shard_are_all_named(root: Path) -> None:
    change(root / TAR, member(root, 1)[0] + 40)
    change(root / TAR, member(root, 3)[0] - 512 + 3)
    os.truncate(root / TAR, member(root, 6)[0] + 5)
    assert [fault.sample for fault in verify(root)] == [9, 11, 14]


def test_neighbours_with_the_same_fault_are_one(root: Path) -> None:
    for row in (1, 2, 3, 5):
        change(root / TAR, member(root, row)[0] + 40)
    first, second = verify(root)
    assert_fault(first, TAR, "the same in the 2 samples after it", member(root, 1)[0], key_of(root, 9), 9)
    assert (second.sample, second.what) == (13, "is damaged (its CRC-32 differs)")


# Shards that are missing, empty or of another set.


def empty_tar() -> bytes:
    buffer = io.BytesIO()
    tarfile.open(fileobj=buffer, mode="w").close()
    return buffer.getvalue()


@pytest.mark.parametrize("agreeing", [False, True])
@pytest.mark.parametrize(
    ("content", "what"),
    [(empty_tar(), "holds no samples instead of 8"), (b"", "no bytes"), (b"garbage!" * 4000, "not a tar header")],
)
def test_worthless_tars(root: Path, agreeing: bool, content: bytes, what: str) -> None:
    key = key_of(root, 8)
    (root / TAR).write_bytes(content)
    if agreeing:
        bless(root)
    fault = one(root)
    assert fault.file == TAR and what in fault.what and fault.key in (None, key)


@pytest.mark.parametrize("name", [TAR, INDEX, "0004/shard-00001.npy", "names.txt", "labels.npy"])
def test_missing_and_strange_files(root: Path, name: str) -> None:
    (root / name).unlink()
    assert_fault(one(root), name, "is missing", None, None, None)
    (root / name).mkdir()
    assert_fault(one(root), name, "is not a regular file", None, None, None)
    (root / name).rmdir()
    os.mkfifo(root / name)
    assert_fault(one(root), name, "is not a regular file", None, None, None)
    (root / name).unlink()
    (root / name).symlink_to(Path(name).name)
    assert_fault(one(root), name, "cannot be read", None, None, None)


def test_missing_folder_is_one_fault(root: Path) -> None:
    shutil.rmtree(root / "0008")
    assert_fault(one(root), "0008", "is missing; its 6 files", None, None, None)


def test_the_tar_of_another_shard(root: Path) -> None:
    shutil.copy(root / "0016/shard-00000.tar", root / TAR)
    fault = one(root)
    assert fault.file == TAR and "another tar than its index describes" in fault.what


def test_a_stale_index(root: Path) -> None:
    stale = rows(root)
    stale["offset"][3:] += 512
    np.save(root / INDEX, stale)
    assert_fault(one(root), INDEX, "SHA-256 differs", None, None, None)
    bless(root)
    assert_fault(one(root), INDEX, "5 of 8 images are not where it says", None, key_of(root, 11), 11)


def test_an_index_that_is_off_by_one(root: Path) -> None:
    index = rows(root)
    index["offset"] += 1
    np.save(root / INDEX, index)
    bless(root)
    assert_fault(one(root), INDEX, "8 of 8 images are not where it says", None, key_of(root, 8), 8)


@pytest.mark.parametrize("change_of", ["size", "offset", "all"])
def test_indexes_of_nonsense(root: Path, change_of: str) -> None:
    index = rows(root)
    for name in ("size", "offset") if change_of == "all" else (change_of,):
        index[name] = 2**64 - 1
    np.save(root / INDEX, index)
    bless(root)
    fault = one(root, decode=True)
    assert fault.file == INDEX and "not the index of the tar beside it" in fault.what


@pytest.mark.parametrize(
    "array", [np.zeros(8, "<u8"), np.zeros(7, INDEX_DTYPE), np.zeros((8, 1), INDEX_DTYPE), np.array([None] * 8, object)]
)
def test_indexes_of_another_form(root: Path, array: NDArray[Any]) -> None:
    np.save(root / INDEX, array, allow_pickle=True)
    bless(root)
    assert_fault(one(root), INDEX, "is damaged: it", None, None, None)


def test_a_tar_and_its_index_damaged_both(root: Path) -> None:
    change(root / INDEX, 200)
    header = member(root)[0] - 512
    change(root / TAR, header + 3)
    change(root / TAR, member(root, 6)[0] - 2)
    faults = {fault.offset: fault for fault in verify(root)}
    assert len(faults) == 3 and faults[None].file == INDEX
    assert faults[header].file == TAR and faults[header].sample == 11
    last = faults[member(root, 6)[0] - 512]
    assert last.file == TAR and last.sample is None  # how many samples a gap has swallowed nobody knows


# Samples and their members.


def test_an_empty_member(root: Path) -> None:
    replace_image(root, b"")
    assert_fault(one(root), TAR, "is empty", member(root)[0] - 512, key_of(root, 11), 11)


def test_a_missing_image(root: Path) -> None:
    rebuild(root, lambda samples: samples[3][1].pop("png"))
    index, tar = verify(root)
    assert index.file == INDEX and "it holds" in index.what
    assert (tar.file, tar.key, tar.sample) == (TAR, key_of(root, 11), 11) and "has no .png member" in tar.what


def test_a_missing_label(root: Path) -> None:
    rebuild(root, lambda samples: samples[3][1].pop("cls"))
    assert_fault(one(root), TAR, "has no .cls member", member(root)[0] - 512, key_of(root, 11), 11)


def test_a_missing_sample(root: Path) -> None:
    whole = (root / INDEX).read_bytes()
    rebuild(root, lambda samples: samples.pop(3))
    index, tar = verify(root)
    assert index.file == INDEX and (tar.file, tar.what) == (TAR, "holds 7 samples instead of 8")
    (root / INDEX).write_bytes(whole)
    bless(root)
    assert "not where it says" in one(root).what


def test_a_member_too_many(root: Path) -> None:
    rebuild(root, lambda samples: samples[3][1].__setitem__("txt", b"hello"))
    assert_fault(one(root), TAR, "a member .txt that does not belong", member(root)[0] - 512, key_of(root, 11), 11)


def test_a_wrong_label(root: Path) -> None:
    rebuild(root, lambda samples: samples[3][1].__setitem__("cls", b"7"))
    assert_fault(one(root), TAR, "another label", member(root)[0] - 1024, key_of(root, 11), 11)


def set_key(row: int, key: str) -> Callable[[list[Sample]], None]:
    def edit(samples: list[Sample]) -> None:
        samples[row] = (key, samples[row][1])

    return edit


@pytest.mark.parametrize("key", ["99999999", "00000000", "hello"])
def test_a_key_unlike_that_of_another_level(root: Path, key: str) -> None:
    rebuild(root, set_key(3, key))
    fault = one(root)
    assert (fault.file, fault.key, fault.sample) == (TAR, key, 11)


def test_a_key_of_other_characters(root: Path) -> None:
    """Which are as far from 0 as the key's number is."""
    key = f"0000000{chr(ord('0') + int(key_of(root, 11)))}"
    for level in ("0016", "0008"):
        rebuild(root, set_key(3, key), f"{level}/shard-00001.tar")
    for fault, level in zip(verify(root), ("0016", "0008"), strict=True):
        assert (fault.file, fault.key, fault.sample) == (f"{level}/shard-00001.tar", key, 11)
        assert "has a key that is not a number" in fault.what


@pytest.mark.parametrize("other", [TAR, "0016/shard-00000.tar"])
def test_a_repeated_key(root: Path, other: str) -> None:
    """Of its own shard, and of an earlier one, which is not told twice."""
    key = samples_of(root / other)[2][0]
    for level in ("0016", "0008"):
        rebuild(root, set_key(3, key), f"{level}/shard-00001.tar")
    fault = one(root)
    assert (fault.key, fault.sample) == (key, 11) and "does not come after" in fault.what


def test_a_key_of_another_shard(root: Path) -> None:
    """As when two shards were made of the same images."""
    ours = [key for key, _ in samples_of(root / TAR)]
    theirs = [key for key, _ in samples_of(root / "0016/shard-00002.tar")]
    key, row = next((key, ours.index(after) - 1) for key in theirs for after in ours[1:] if key < after)
    for level in ("0016", "0008"):
        rebuild(root, set_key(row, key), f"{level}/shard-00001.tar")
    fault = one(root)
    assert (fault.file, fault.key, fault.sample) == ("0016/shard-00002.tar", key, 16 + theirs.index(key))
    assert TAR in fault.what


# Pixels.


def gif() -> bytes:
    frames = [Image.fromarray(noise(i)) for i in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deep() -> bytes:
    import cv2

    return cv2.imencode(".png", noise(0).astype(np.uint16) * 257)[1].tobytes()


rgb = Image.fromarray(noise(0))
PNG, JPEG = encode(noise(0), "png", 95), encode(noise(0), "jpeg", 95)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"garbage", "cannot be decoded"),
        (PNG[: len(PNG) // 2], "cannot be decoded"),
        (PNG[:-12], "cannot be decoded"),
        (PNG[:300] + bytes([PNG[300] ^ 1]) + PNG[301:], "cannot be decoded"),
        (encode(noise(0, 32), "png", 95), "is 32x32 pixels, not 16x16"),
        (encode(noise(0)[:8], "png", 95), "is 16x8 pixels, not 16x16"),
        (saved(rgb.convert("L"), "PNG"), "has L pixels, not RGB"),
        (saved(rgb.convert("RGBA"), "PNG"), "has RGBA pixels, not RGB"),
        (saved(rgb.convert("P"), "PNG"), "has P pixels, not RGB"),
        (deep(), "has 16 bits per channel, not 8"),
        (saved(rgb, "PNG", save_all=True, append_images=[Image.fromarray(noise(1))]), "is animated (2 frames)"),
        (JPEG, "is JPEG, not PNG"),
        (gif(), "cannot be decoded"),
    ],
)  # fmt: skip
def test_members_that_are_no_such_png(root: Path, content: bytes, what: str) -> None:
    replace_image(root, content)
    assert verify(root) == []
    assert_fault(one(root, decode=True), TAR, what, member(root)[0], key_of(root, 11), 11)


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("jpegs"), format="jpeg")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (JPEG[: len(JPEG) // 2], "cannot be decoded"),
        (JPEG[:-9], "cannot be decoded"),
        (saved(rgb.convert("CMYK"), "JPEG"), "has CMYK pixels, not RGB"),
        (saved(rgb.convert("L"), "JPEG"), "has L pixels, not RGB"),
        (saved(rgb, "MPO", save_all=True, append_images=[rgb]), "is MPO, not JPEG"),
        (encode(noise(0, 8), "jpeg", 95), "is 8x8 pixels, not 16x16"),
        (PNG, "is PNG, not JPEG"),
    ],
)
def test_members_that_are_no_such_jpeg(jpegs: Path, tmp_path: Path, content: bytes, what: str) -> None:
    root = tmp_path / "set"
    shutil.copytree(jpegs, root)
    replace_image(root, content)
    assert verify(root) == []
    assert_fault(one(root, decode=True), TAR, what, member(root)[0], key_of(root, 11), 11)


def test_an_image_of_absurd_size_is_not_read(root: Path) -> None:
    replace_image(root, PNG + bytes(1 << 21))
    assert_fault(one(root, decode=True), TAR, "far too many", member(root)[0], key_of(root, 11), 11)


def test_other_members_of_a_damaged_tar_are_decoded_too(root: Path) -> None:
    replace_image(root, JPEG)
    change(root / TAR, member(root, 5)[0] + 40)
    assert [fault.sample for fault in verify(root, decode=True)] == [11, 13]


# Arrays, names and labels.

ARRAY = "0004/shard-00001.npy"


def lying() -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 3, 4, 4)})
    return buffer.getvalue() + bytes(8 * 48)


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


FRAME = np.zeros((8, 3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (npy(FRAME[:7]), "it holds uint8 [7, 3, 4, 4], not uint8 [8, 3, 4, 4]"),
        (npy(FRAME.astype(np.int8)), "it holds int8"),
        (npy(np.asfortranarray(FRAME + 1)), "it holds"),
        (npy(np.array([None], object)), "it holds object"),
        (npy(FRAME)[:-1], "which is not what uint8 [8, 3, 4, 4] takes"),
        (npy(FRAME) + b"\0", "which is not what uint8 [8, 3, 4, 4] takes"),
        (lying(), "it holds uint8 [1000000000000, 3, 4, 4]"),
        (b"garbage", "it is not an array"),
        (b"", "it is not an array"),
    ],
)
def test_damaged_arrays(root: Path, content: bytes, what: str) -> None:
    (root / ARRAY).write_bytes(content)
    assert_fault(one(root), ARRAY, "bytes instead of" if len(content) != 512 else "", None, None, None)
    bless(root)
    assert_fault(one(root), ARRAY, what, None, None, None)


def test_flipped_bit_in_an_array(root: Path) -> None:
    change(root / ARRAY, 300)
    assert_fault(one(root), ARRAY, "SHA-256 differs", None, None, None)


@pytest.mark.parametrize(
    ("edit", "what"),
    [
        (lambda text: text[:-7], "has 23 lines instead of 24"),
        (lambda text: text + b"more\n", "has 25 lines instead of 24"),
        (lambda text: text + b"more", "text after its last line"),
        (lambda text: b"\xff" + text, "not UTF-8"),
        (lambda text: b"", "has 0 lines instead of 24"),
    ],
)
def test_names(root: Path, edit: Callable[[bytes], bytes], what: str) -> None:
    path = root / "names.txt"
    path.write_bytes(edit(path.read_bytes()))
    for _ in range(2):
        assert_fault(one(root), "names.txt", what, None, None, None)
        bless(root)


def test_a_changed_name(root: Path) -> None:
    change(root / "names.txt", 3)
    assert_fault(one(root), "names.txt", "SHA-256 differs", None, None, None)


@pytest.mark.parametrize(
    ("labels", "what", "sample"),
    [
        (np.zeros(23, np.int64), "it holds int64 [23], not int64 [24]", None),
        (np.zeros(24, np.int32), "it holds int32 [24], not int64 [24]", None),
        (np.zeros((24, 1), np.int64), "it holds int64 [24, 1]", None),
        (np.arange(24) - 1, "not the number of one of the 2 classes", 0),
        (np.arange(24), "not the number of one of the 2 classes, and the same in the 21 samples after it", 2),
    ],
)
def test_labels(root: Path, labels: NDArray[Any], what: str, sample: int | None) -> None:
    np.save(root / "labels.npy", labels)
    bless(root)
    fault = verify(root)[0]
    assert fault.file == "labels.npy" and what in fault.what and fault.sample == sample
    assert {fault.file for fault in verify(root)} == {"labels.npy"}


def test_labels_that_disagree_with_every_tar(root: Path) -> None:
    labels = np.load(root / "labels.npy")
    np.save(root / "labels.npy", 1 - labels)
    assert_fault(one(root), "labels.npy", "SHA-256 differs", None, None, None)
    bless(root)
    faults = verify(root)
    assert len(faults) == 6 and all("another label" in fault.what for fault in faults)


# Files that do not belong, and links.


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("0016/shard-00009.tar", "is not in the manifest"),
        ("0004/old.npy", "is not in the manifest"),
        ("extra.npy", "is not in the manifest"),
        ("0016/.shard-00001.tar.77.tmp", "unfinished file"),
        (".names.txt.77.tmp", "unfinished file"),
        ("0016/line\nend.tar", "is not in the manifest"),
        ("0032/shard-00000.tar", "is a level that the manifest does not have"),
    ],
)
def test_strays(root: Path, name: str, what: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"")
    fault = one(root)
    assert fault.file == ("0032" if name.startswith("0032") else name) and what in fault.what


def test_a_text_beside_the_data_is_no_fault(root: Path) -> None:
    for name in ("LICENSE", "README.md", "0016/.nfs00001"):
        (root / name).write_text("hello")
    (root / "notes").mkdir()
    assert verify(root) == []


@pytest.mark.parametrize("name", [TAR, INDEX, ARRAY, "names.txt", "labels.npy", "manifest.json", "0008"])
def test_links(root: Path, tmp_path: Path, name: str) -> None:
    """Those that lead outside are not followed; the data set as a whole may be reached through one."""
    inside = root / "inside"
    (root / name).rename(inside)
    (root / name).symlink_to(inside)
    (tmp_path / "link").symlink_to(root)
    assert verify(tmp_path / "link") == []
    (root / name).unlink()
    inside.rename(tmp_path / "outside")
    (root / name).symlink_to(tmp_path / "outside")
    assert_fault(one(root), name, "leads outside", None, None, None) if name != "0008" else None
    fault = one(root)
    assert fault.file == name and "leads outside" in fault.what


# Faults themselves.


def test_condense() -> None:
    faults = [Fault("a", "x", sample=i) for i in (5, 3, 4, 9)] + [Fault("a", "y", sample=6), Fault("a", "whole")]
    condensed = condense(faults)
    assert [(fault.sample, fault.what) for fault in condensed] == [
        (None, "whole"), (3, "x, and the same in the 2 samples after it"), (6, "y"), (9, "x"),
    ]  # fmt: skip
    many = condense(Fault("a", "x", sample=2 * i) for i in range(100))
    assert len(many) == AT_MOST + 1 and many[-1].what == f"{100 - AT_MOST} more faults in this file, not listed"
    assert condense([]) == []


def test_a_fault_is_one_line() -> None:
    fault = Fault("0016/a\nb.tar", "is damaged", offset=512, key="\x1b[31m", sample=7)
    assert str(fault) == "'0016/a\\nb.tar' at byte 512 key '\\x1b[31m' (sample 7): is damaged"
    assert str(Fault("names.txt", "is missing")) == "names.txt: is missing"


@pytest.mark.slow
def test_memory_stays_small(tmp_path: Path) -> None:
    """Of a shard of 400 MB, sound or damaged, no large part is held."""
    script = """
import resource, sys
from pathlib import Path
from benchmarks.verify import make
from data_pipelines.images.verify import verify
root = Path(sys.argv[1])
make(root, 1000, 256, 2, 30)
import hashlib, json
tar = root / "0256/shard-00000.tar"
with tar.open("r+b") as file:
    file.truncate(400_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(fault,) = verify(root, decode=True)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, fault)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    grown, _, fault = done.stdout.partition(" ")
    assert int(grown) < 100 and "bytes instead of" in fault


def test_manifest_is_loaded_from_the_given_directory(root: Path) -> None:
    assert Manifest.load(root).samples == 24


@pytest.mark.slow
@pytest.mark.parametrize("ending", [lambda i: f"{i:08d}.png", lambda i: f"00000000.{i}"])
@pytest.mark.parametrize("damaged", [False, True])
def test_a_tar_made_to_take_long(root: Path, ending: Callable[[int], str], damaged: bool) -> None:
    """Many members of one sample or of many, without an index, and perhaps every other header damaged."""
    blocks = []
    for i in range(60_000):
        header = tarfile.TarInfo(ending(i)).tobuf(tarfile.USTAR_FORMAT)
        blocks.append(b"\xff" * 512 if damaged and i % 2 else header)
    (root / TAR).write_bytes(b"".join(blocks))
    (root / INDEX).write_bytes(b"")
    start = time.process_time()
    faults = verify(root)
    assert time.process_time() - start < 10  # one or two, but many minutes when each header takes a look at all others
    assert 2 <= len(faults) <= AT_MOST + 2
