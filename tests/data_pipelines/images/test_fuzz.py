"""Whatever stands in the files of a data set, reading it ends well, or in a ValueError or OSError that names a file: in
no other exception, no crash, no pickle executed, and within a bounded memory. And no change goes unnoticed."""

import hashlib
import io
import json
import os
import resource
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, configuration, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from data_pipelines.images.arrays import map_array, parse_array
from data_pipelines.images.manifest import INDEX_DTYPE, FileRecord, Manifest
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.reader import Reader
from data_pipelines.images.store import Directory
from data_pipelines.images.verify import verify

pytestmark = pytest.mark.slow

_storage = tempfile.TemporaryDirectory(prefix="hypothesis-")
configuration.set_hypothesis_home_dir(_storage.name)  # where it notes things as soon as the tests are collected

ROOM = 1 << 30
"""Memory that all cases together may take beyond what the process has before."""

EXAMPLES = {"bytes": 2000, "values": 1300, "names": 2200, "headers": 1600, "files": 300, "members": 150}
TIMES = int(os.environ.get("SIVAE_FUZZ", "1"))
"""How many times as many: more than one for a long campaign."""

ran: Counter[str] = Counter()
"""Cases, of which an example of hypothesis, whose making takes most of the time, holds a few."""


def cases(kind: str) -> settings:
    """The same ones each time."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(
        max_examples=TIMES * EXAMPLES[kind],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=checks,
    )


def write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)  # file systems are slow to overwrite, so that nothing is lost in a crash
    path.write_bytes(data)


class DataSet:
    """Six labelled images in two shards, as an array of 4 px and tars of 8 px, and what its files held at first."""

    def __init__(self, folder: Path) -> None:
        for i in range(6):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            path = folder / "source" / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        self.root = folder / "set"
        chosen = PrepareSettings(resolution=8, array_max_resolution=4, shard_size=3)
        self.manifest = prepare(folder / "source", self.root, chosen)
        self.text = (self.root / "manifest.json").read_bytes()
        self.content = json.loads(self.text)
        self.files = {record.name: (self.root / record.name).read_bytes() for record in self.manifest.records()}
        self.pixels = {level: self.reader(level).pixels(range(6)) for level in (4, 8)}

    def reader(self, level: int, manifest: Manifest | None = None) -> Reader:
        return Reader(Directory(self.root), manifest or self.manifest, level)

    def put(self, name: str, data: bytes, agreeing: bool) -> None:
        """Other bytes in a file, and perhaps a manifest that agrees with them."""
        write(self.root / name, data)
        if agreeing:
            (record,) = (record for record in self.manifest.records() if record.name == name)
            text = self.text.replace(record.sha256.encode(), hashlib.sha256(data).hexdigest().encode())
            entry = f'"name": "{name}",'.encode()
            before, _, after = text.partition(entry)
            after = after.replace(str(record.bytes).encode(), str(len(data)).encode(), 1)
            write(self.root / "manifest.json", before + entry + after)

    @contextmanager
    def restored(self, name: str) -> Iterator[None]:
        """Whatever happens, the next case begins with a whole data set."""
        try:
            yield
        finally:
            if name in self.files:
                write(self.root / name, self.files[name])
            write(self.root / "manifest.json", self.text)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return DataSet(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(scope="module", autouse=True)
def bounds(data: DataSet) -> Iterator[None]:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def check_error(error: Exception, data: DataSet) -> None:
    """One line that names a file or the data set."""
    assert isinstance(error, ValueError | OSError)
    assert str(data.root) in str(error) and "\n" not in str(error) and len(str(error)) < 2000, error


def read_all(data: DataSet) -> list[Any]:
    """Everything that reads a data set, on this one; what verify says, when there is a manifest."""
    try:
        manifest = Manifest.load(data.root)
        assert len(manifest.digest) == 64
        faults = verify(data.root, decode=True)
    except (ValueError, OSError) as error:
        check_error(error, data)
        return [error]
    for fault in faults:
        assert fault.file and fault.what and "\n" not in str(fault) and len(str(fault)) < 2000
    for level in manifest.levels:
        if level > 64:
            continue
        reader = data.reader(level, manifest)
        try:
            reader.pixels([0, manifest.samples - 1])
        except (ValueError, OSError) as error:
            check_error(error, data)
        reader.close()
    return list(faults)


edits = st.lists(st.integers(0, (1 << 48) - 1), min_size=1, max_size=4)
"""Each number is one edit: drawing one is much cheaper than drawing what it stands for."""


def mutate(data: bytes, number: int) -> bytes:
    kind, number = number % 7, number // 7
    size, number = number % 12 + 1, number // 12
    payload, number = (number % (1 << 24)).to_bytes(3, "little"), number >> 24
    place = number % (len(data) + 1)
    before, after = data[:place], data[place:]
    if kind == 0:  # one bit
        return before + bytes(byte ^ (1 << payload[0] % 8) for byte in after[:1]) + after[1:]
    if kind == 1:  # a few bytes
        return before + payload[: size % 3 + 1] + after[size % 3 + 1 :]
    if kind == 2:  # more
        return before + payload[: size % 3 + 1] + after
    if kind == 3:  # fewer
        return before + after[size * (payload[0] + 1) :]
    if kind == 4:  # the end is cut off
        return before
    if kind == 5:  # something twice
        return before + after[: 64 * size] + after
    return before + bytes(len(after[: 16 * size * size])) + after[16 * size * size :]


def mutations(data: bytes, changes: list[int]) -> Iterator[bytes]:
    """After one edit, after two, and so on."""
    for number in changes:
        data = mutate(data, number)
        yield data


@cases("bytes")
@given(changes=edits)
def test_manifest_with_other_bytes(data: DataSet, changes: list[int]) -> None:
    for text in mutations(data.text, changes):
        ran["bytes"] += 1
        with data.restored("manifest.json"):
            write(data.root / "manifest.json", text)
            read_all(data)


def paths_in(value: Any) -> Iterator[tuple[Any, ...]]:
    """Ways to every value in a JSON text."""
    yield ()
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        for path in paths_in(part):
            yield (key, *path)


ODD = [
    "null", "true", "-1", "0", "1", "2", "3", "7", "8", "64", "4096", "8192", "4294967296", "9223372036854775807",
    "18446744073709551616", "1" + 400 * "0", 5000 * "1", "1.5", "4.0", "1e999", "NaN", "-Infinity", '""', '"train"',
    '"test"', '"3"', '"8"', '"../x"', '"/etc/passwd"', '"names.txt"', '"0008"', '"0008/shard-00000.tar"', '"a/b/c/d"',
    '"manifest.json"', '"\\ud800"', '"\\u0000"', '"é"', '"a\\nb"', f'"{300 * "x"}"', f'"{70_000 * "x"}"', "[]", "{}",
    "[[]]", '{"a": 1, "a": 2}', '{"name": "names.txt", "bytes": 1, "sha256": ""}', 60_000 * "[", 300 * "[" + 300 * "]",
    1200 * '{"a":' + "1" + 1200 * "}", "", "]", "\\", '"',
]  # fmt: skip


@cases("values")
@given(
    places=st.lists(st.tuples(st.integers(0, 1 << 16), st.sampled_from(ODD)), min_size=1, max_size=2),
    form=st.sampled_from(["replace", "replace", "replace", "double", "remove", "add"]),
)
def test_manifest_with_other_values(data: DataSet, places: list[tuple[int, str]], form: str) -> None:
    content = json.loads(data.text)
    texts: dict[str, str] = {}
    for number, text in places:
        ran["values"] += 1
        paths = list(paths_in(content))
        *way, last = paths[1 + number % (len(paths) - 1)]
        parent = content
        for key in way:
            parent = parent[key]
        texts[f'"<{number}>"'] = text
        if form == "remove":
            del parent[last]
        elif form == "replace":
            parent[last] = f"<{number}>"
        elif isinstance(parent, list):
            parent.insert(last, parent[last] if form == "double" else f"<{number}>")
        else:
            parent[f"{text[:40]}{last}"] = parent[last] if form == "double" else f"<{number}>"
        whole = json.dumps(content)
        for marker, value in texts.items():
            whole = whole.replace(marker, value)
        with data.restored("manifest.json"):
            write(data.root / "manifest.json", whole.encode())
            read_all(data)


name_parts = st.sampled_from(
    ["..", ".", "", "a", "0008", "x.tar", "~", "%2e%2e", "\\", "C:", "a b", "é", "\0", "\n", "…", "．．"]
)


@cases("names")
@given(
    parts=st.lists(name_parts, min_size=1, max_size=5),
    joint=st.sampled_from(["/", ""]),
    more=st.integers(0, 0x2FFF).map(chr),
)
def test_names_never_lead_outside(parts: list[str], joint: str, more: str) -> None:
    name = joint.join(parts)
    for place in (0, len(name) // 2):
        check_name(name)
        name = name[:place] + more + name[place:]
    check_name(name)


def check_name(name: str) -> None:
    ran["names"] += 1
    try:
        FileRecord(name=name, bytes=0, sha256=64 * "0")
    except ValidationError:
        return
    assert not os.path.isabs(name) and name.isascii() and name.isprintable()
    assert os.path.normpath(f"/set/{name}") == f"/set/{name}", "another way to write it, or outside"


EXPECTED = [(np.dtype(np.uint8), (2, 3, 4, 4)), (np.dtype(INDEX_DTYPE), (3,)), (np.dtype(np.int64), (6,))]
DESCR = [
    "'|u1'", "'<i8'", "'>i8'", "'|O'", "'O'", "'|V20'", "'<U9999999'",
    "[('offset', '<u8'), ('size', '<u8'), ('crc', '<u4')]", "[('offset', '|O'), ('size', '<u8')]", "('<i8', (10**9,))",
    "('<i8', (1000000000,))", "{}", "[]", "None", "'x'", "1",
    "[('a', [('b', '|u1', (100000, 100000, 100000))])]", "b'|u1'", "'\\x00'", 3000 * "(", 500 * "-" + "1", "{[]: 1}",
    150 * "[" + 150 * "]",
]  # fmt: skip
SHAPES = [
    "(2, 3, 4, 4)", "(3,)", "(6,)", "()", "(0,)", "(-1,)", "(1000000000000,)", "(10000000000000000000000,)", "(2, 3)",
    "(6.0,)", "(True,)", "[6]", "6", "('6',)", "None", "(1000000, 1000000, 1000000, 1000000)", "(6, )", "(1_0,)",
    "((6,),)",
]  # fmt: skip


@cases("headers")
@given(
    descr=st.sampled_from(DESCR), shape=st.sampled_from(SHAPES),
    fortran=st.sampled_from(["False", "True", "0", "[]", "x"]),
    extra=st.sampled_from(["", ", 'more': 1", ", 'shape': (3,)"]),
    length=st.sampled_from([0, 0, 0, -1, 1, 40_000, -50]),
    size=st.integers(0, 200), change=st.none() | st.integers(0, (1 << 48) - 1),
)  # fmt: skip
def test_arrays_with_other_headers(
    data: DataSet, descr: str, shape: str, fortran: str, extra: str, length: int, size: int, change: int | None
) -> None:
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}{extra}}}\n".encode()
    for version, width in ((b"\1\0", 2), (b"\2\0", 4), (b"\xff\0", 2)):
        ran["headers"] += 1
        claimed = max(len(header) + length, 0).to_bytes(width, "little")
        content = b"\x93NUMPY" + version + claimed + header + bytes(size)
        check_array(data.root / "other.npy", content if change is None else mutate(content, change))


def check_array(path: Path, content: bytes) -> None:
    write(path, content)
    for dtype, wanted in EXPECTED:
        for read, source in ((parse_array, content), (map_array, path)):
            try:
                array = read(source, dtype, wanted)  # type: ignore[operator]
            except ValueError as error:
                assert "\n" not in str(error) and len(str(error)) < 20_000
                continue
            assert array.dtype == dtype and array.shape == wanted
            assert len(content) - array.nbytes < 1 << 16
    path.unlink()


@cases("files")
@given(number=st.integers(0, 7), changes=edits)
def test_files_with_other_bytes(data: DataSet, number: int, changes: list[int]) -> None:
    name = sorted(data.files)[number]
    for content in mutations(data.files[name], changes):
        for agreeing in (False, True):
            ran["files"] += 1
            with data.restored(name):
                data.put(name, content, agreeing)
                check_file(data, name, content, agreeing)


def check_file(data: DataSet, name: str, content: bytes, agreeing: bool) -> None:
    faults = read_all(data)
    if content == data.files[name]:
        assert faults == []
    elif not agreeing:
        assert [fault.file for fault in faults] == [name] * len(faults) != [], (
            "a change went unnoticed, or was misplaced"
        )
        for level, pixels in data.pixels.items():
            got, damaged = data.reader(level).read(range(6))
            kept = [i for i in range(6) if i not in damaged]
            np.testing.assert_array_equal(got[kept], pixels[kept])


FIELDS = {
    "name": (0, 100),
    "size": (124, 12),
    "type": (156, 1),
    "magic": (257, 8),
    "prefix": (345, 155),
    "checksum": (148, 8),
}
VALUES = [
    b"", b"00000001.png", b"00000001.cls", b"00000000.png", b"../../x", b"\xff\xff\xff", b"00000000000\0",
    b"77777777777\0", b"00000001000\0", b"\x80" + bytes(3) + b"\xff" * 8, b"-1", b"5", b"L", b"x", b"1", b"ustar  \0",
    b"a.b.c.png", b" 1 ", b"99999999999999999999",
]  # fmt: skip


@cases("members")
@given(
    shard=st.integers(0, 1), member=st.integers(0, 5), field=st.sampled_from(sorted(FIELDS)),
    value=st.sampled_from(VALUES) | st.binary(max_size=12),
)  # fmt: skip
def test_tars_with_other_members(data: DataSet, shard: int, member: int, field: str, value: bytes) -> None:
    """Headers that say something else, most of them with a right checksum."""
    name = f"0008/shard-0000{shard}.tar"
    content = bytearray(data.files[name])
    offsets = np.load(io.BytesIO(data.files[name.replace(".tar", ".index.npy")]))["offset"]
    start = int(offsets[member % 3]) - 512 * (1 if member < 3 else 3)
    place, length = FIELDS[field]
    content[start + place : start + place + length] = value[:length].ljust(length, b"\0")
    for right in (False, True):
        if right:
            header = content[start : start + 512]
            total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
            content[start + 148 : start + 156] = f"{total:06o}\0 ".encode()
        for agreeing in (False, True):
            ran["members"] += 1
            with data.restored(name):
                data.put(name, bytes(content), agreeing)
                check_file(data, name, bytes(content), agreeing)


def test_enough_cases_ran(request: pytest.FixtureRequest) -> None:
    chosen = {item.name for item in request.session.items if item.path == request.path}
    if missing := {name for name in globals() if name.startswith("test_")} - chosen:
        pytest.skip(f"not chosen: {', '.join(sorted(missing))}")
    assert set(ran) == set(EXAMPLES)
    assert sum(ran.values()) >= 20_000, ran
