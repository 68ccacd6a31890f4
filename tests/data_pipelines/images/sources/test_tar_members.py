import io
import os
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.images.sources import SourceError
from data_pipelines.images.sources.tar_members import Member, members
from tests.data_pipelines.images.sources.making import link, tar_bytes, write_tar

BLOCK = 512
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def walked(tmp_path: Path, data: bytes) -> list[Member]:
    (tmp_path / "a.tar").write_bytes(data)
    return list(members(tmp_path / "a.tar", "a.tar"))


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type = kind
    return header


@pytest.mark.parametrize("tar_format", FORMATS)
def test_what_tarfile_finds(tmp_path: Path, tar_format: str) -> None:
    files: dict[str, bytes | tarfile.TarInfo] = {
        "a.png": b"a",
        "empty.png": b"",
        "block.png": bytes(512),
        "folder": special("folder", tarfile.DIRTYPE),
        "folder/" + "n" * 90 + "/" + "m" * 60 + ".png": b"b" * 513,
        "soft.png": link("soft.png", "a.png"),
        "hard.png": link("hard.png", "a.png", tarfile.LNKTYPE),
        "device.png": special("device.png", tarfile.CHRTYPE),
        "fifo": special("fifo", tarfile.FIFOTYPE),
        "last.png": b"c" * 2000,
    }
    if tar_format != "ustar":
        files |= {"long" * 60 + ".png": b"d", "ü/ж.png": b"e", "far": link("far", "t" * 150)}
    data = tar_bytes(files, FORMATS[tar_format])
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        want = [(m.name, m.isreg(), m.issym() or m.islnk(), m.offset_data, m.size * m.isreg()) for m in opened]
    found = walked(tmp_path, data)
    assert [(m.name, m.kind == "file", m.kind == "link", m.offset, m.size) for m in found] == want
    assert [m.kind for m in found if not m.size] == ["file", "folder", "link", "link", "other", "other"] + ["link"] * (
        tar_format != "ustar"
    )


def test_sizes_in_extended_headers(tmp_path: Path) -> None:
    header = tarfile.TarInfo("a.png")
    header.size = 1000
    header.pax_headers = {"size": "1000"}
    data = bytearray(header.tobuf(tarfile.PAX_FORMAT))
    assert len(data) == 3 * BLOCK
    found = walked(tmp_path, bytes(data) + bytes(1024) + tar_bytes({"b.png": b"b"}))
    assert [(m.name, m.offset, m.size) for m in found] == [("a.png", 3 * BLOCK, 1000), ("b.png", 6 * BLOCK, 1)]


@pytest.mark.parametrize("tar_format", ["gnu", "pax"])
def test_files_stored_without_holes(tmp_path: Path, tar_format: str) -> None:
    path = tmp_path / "hole.png"
    with path.open("wb") as file:
        for k in range(40):  # more than a header has room for
            file.seek(k << 16)
            file.write(b"data")
    (tmp_path / "z.png").write_bytes(b"z")
    command = f"tar --sparse --format={tar_format} -C {tmp_path} -cf {tmp_path}/a.tar hole.png z.png"
    assert os.system(command) == 0
    found = walked(tmp_path, (tmp_path / "a.tar").read_bytes())
    assert [m.kind for m in found] == ["sparse", "file"]
    assert (found[1].name, found[1].size) == ("z.png", 1)


def extended(kind: bytes, claimed: int, data: bytes) -> bytes:
    header = tarfile.TarInfo("extension")
    header.type, header.size = kind, claimed
    return header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % BLOCK)


THREE = tar_bytes({f"{k}.png": bytes([k]) * 700 for k in range(3)})  # each takes three blocks

DAMAGE: dict[str, tuple[bytes, int, str]] = {
    "empty": (b"", 0, "ends without an end marker"),
    "cut between members": (THREE[: 6 * BLOCK], 6, "ends without an end marker"),
    "cut at the end marker": (THREE[: 9 * BLOCK], 9, "ends without an end marker"),
    "cut inside a header": (THREE[: 6 * BLOCK + 100], 6, "ends without an end marker"),
    "cut inside a member": (THREE[: 7 * BLOCK + 100], 7, "'2.png' claims 700 bytes"),
    "cut inside what fills a block": (THREE[: 9 * BLOCK - 10], 9, "ends without an end marker"),
    "a header changed": (THREE[: 3 * BLOCK] + b"x" + THREE[3 * BLOCK + 1 :], 3, "bad checksum"),
    "two tars in a row": (THREE + THREE, 9, "more behind it"),
    "no tar": (b"text" * 500, 0, "invalid header"),
    "a large extended header": (extended(tarfile.XHDTYPE, 1 << 40, b"") + THREE, 1, "extended header claims"),
    "a large long name": (extended(tarfile.GNUTYPE_LONGNAME, 2 << 20, bytes(2 << 20)) + THREE, 1, "extended header"),
    "a negative size": (extended(tarfile.REGTYPE, -512, b"") + THREE, 1, "claims -512 bytes"),
    "odd attributes": (extended(tarfile.XHDTYPE, 20, b"99999999999999999999") + THREE, 2, "not a list of attributes"),
    "attributes of length 0": (extended(tarfile.XHDTYPE, 8, b"0 path=x") + THREE, 2, "not a list of attributes"),
    "an odd size": (extended(tarfile.XHDTYPE, 12, b"12 size=0x1\n") + THREE, 3, "has the size '0x1'"),
    "a name for nothing": (extended(tarfile.GNUTYPE_LONGNAME, 1, b"x") + bytes(1024), 2, "followed by no member"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_with_its_offset(tmp_path: Path, damage: str) -> None:
    data, block, message = DAMAGE[damage]
    with pytest.raises(
        SourceError, match=rf"^a\.tar is a damaged tar at offset {block * BLOCK} \(.*{message}"
    ) as error:
        walked(tmp_path, data)
    assert "\n" not in str(error.value)


def test_memory_does_not_grow_with_what_headers_say(tmp_path: Path) -> None:
    """Thousands of extended headers for one member; for each of them Python's tarfile calls itself once more."""
    chain = b""
    for start in range(100_000, 150_000, 5_000):
        row = b"".join(
            b"%d GNU.sparse.%d=\n" % (len(b"22 GNU.sparse.100000=\n"), k) for k in range(start, start + 5000)
        )
        chain += extended(tarfile.XGLTYPE, len(row), row) + extended(tarfile.XHDTYPE, len(row), row)
    chain += extended(tarfile.XHDTYPE, 9, b"9 path=x\n") * 5000
    (tmp_path / "a.tar").write_bytes(chain + THREE)
    tracemalloc.start()
    try:
        assert [m.name for m in members(tmp_path / "a.tar", "a.tar")] == ["x", "1.png", "2.png"]
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_links_lead_nowhere(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "b.tar", {"a.png": link("a.png", "/etc/passwd")})
    (member,) = members(path, "b.tar")
    assert (member.kind, member.size) == ("link", 0)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 255)), max_size=8), st.integers(0, 20_000))
def test_any_damage_is_told_or_harmless(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(tar_bytes({"n" * 120 + ".png": b"1" * 600, "ü.png": b"2"}, tarfile.PAX_FORMAT))
    for position, value in changes:
        data[position % len(data)] = value
    with tempfile.NamedTemporaryFile() as file:
        file.write(data[: min(cut, len(data))] if cut % 2 else data)
        file.flush()
        try:
            found = list(members(Path(file.name), "a.tar"))
        except SourceError as error:
            assert "\n" not in str(error)
        else:
            assert len(found) == 2  # neither is lost without a word
