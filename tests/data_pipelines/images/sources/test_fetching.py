import gzip
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipelines.images.prepare import PrepareError, prepare
from data_pipelines.images.sources import SourceError, fetching
from data_pipelines.images.sources.opening import open_source
from data_pipelines.images.sources.spool import Spool
from data_pipelines.images.transport import TransferSettings
from tests import web as faults
from tests.data_pipelines.images.sources.making import encoded, noise, pngs, small, tar_bytes, write_tar
from tests.disks import mounted_or_skipped
from tests.web import Web

WANT = {f"{k}{i}.png": encoded(noise(k, 64, 64)) for k in range(3) for i in range(3)}


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, which take no time here."""
    waited: list[float] = []
    monkeypatch.setattr(fetching, "time", SimpleNamespace(sleep=waited.append))
    return waited


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    (tmp_path / "web").mkdir()
    with Web(tmp_path / "web") as server:
        yield server


@pytest.fixture
def shards(web: Web) -> Web:
    for k in range(3):
        (web.root / f"{k}.tar").write_bytes(tar_bytes({name: data for name, data in WANT.items() if name[0] == str(k)}))
    return web


def fetched(where: str, spool: Path) -> dict[str, object]:
    source = open_source(where, spool=spool)
    return {name: source.read(i) for i, name in enumerate(source.listing.names)}


def test_shards_from_a_server(shards: Web, tmp_path: Path) -> None:
    where = f"{shards.url}/{{0..2}}.tar"
    assert fetched(where, tmp_path / "spool") == WANT
    assert fetched(where, tmp_path / "spool") == WANT
    assert dict(shards.requests) == {f"{k}.tar": 1 for k in range(3)}  # what is there is not fetched again
    assert sorted(len(path.name) for path in tmp_path.glob("spool/*")) == [32, 32, 32]


@pytest.mark.parametrize("compress", [False, True])
def test_pipes_files_and_compressed_streams(tmp_path: Path, compress: bool) -> None:
    data = tar_bytes(pngs(3))
    path = tmp_path / "a b.bin"
    path.write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]) if compress else data)
    assert fetched(f"pipe:cat '{path}'", tmp_path / "spool") == pngs(3)
    assert fetched(path.as_uri(), tmp_path / "spool") == pngs(3)
    assert len(list(tmp_path.glob("spool/*"))) == 1 + compress  # a plain local tar is read where it is


def test_what_webdataset_cannot_open_fsspec_does(tmp_path: Path, waits: list[float]) -> None:
    import fsspec

    with fsspec.open("memory://bucket/a.tar", "wb") as file:
        file.write(tar_bytes(pngs(2)))
    assert fetched("memory://bucket/a.tar", tmp_path / "spool") == pngs(2)
    with pytest.raises(SourceError, match=r"^nowhere://x/a\.tar: Protocol not known: nowhere"):
        open_source("nowhere://x/a.tar", spool=tmp_path / "spool")
    assert waits == []


def test_tries_again(shards: Web, tmp_path: Path, waits: list[float]) -> None:
    shards.fault("0.tar", faults.cut, 1)
    shards.fault("1.tar", faults.short, 2)
    assert fetched(f"{shards.url}/{{0..2}}.tar", tmp_path / "spool") == WANT
    assert dict(shards.requests) == {"0.tar": 2, "1.tar": 3, "2.tar": 1}
    assert waits == [1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "message", "tries"),
    [
        (faults.cut, r"\(6 tries\): .*Not enough data", 6),
        (faults.short, r"\(6 tries\): it is a damaged tar at offset \d+ \(", 6),
        (faults.long, r"\(6 tries\): it .*more behind it", 6),
        (faults.status(500), r"\(6 tries\): the server answers 500", 6),
        (faults.status(404), r"\(1 try\): there is no such file", 1),
        (faults.status(403), r"\(1 try\): the server answers 403", 1),
    ],
)
def test_gives_up(shards: Web, tmp_path: Path, waits: list[float], fault: Any, message: str, tries: int) -> None:
    shards.fault("1.tar", fault)
    with pytest.raises(PrepareError, match=rf"{shards.url}/1\.tar could not be fetched {message}") as error:
        prepare(f"{shards.url}/{{0..2}}.tar", tmp_path / "out", small())
    assert "\n" not in str(error.value)
    assert shards.requests["1.tar"] == tries
    assert len(list((tmp_path / "out.partial" / "work" / "source").iterdir())) == 1
    shards.fault("1.tar", faults.whole)
    assert prepare(f"{shards.url}/{{0..2}}.tar", tmp_path / "out", small()).samples == 9
    assert shards.requests["0.tar"] == 1
    assert not (tmp_path / "out" / "work").exists()


def test_no_server(web: Web, tmp_path: Path, waits: list[float]) -> None:
    with pytest.raises(PrepareError, match=r"127\.0\.0\.1:1/a\.tar could not be fetched \(6 tries\): Cannot connect"):
        prepare("http://127.0.0.1:1/a.tar", tmp_path / "out", small())
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize(
    ("command", "message", "tries"),
    [
        ("cat {tar} ; echo why >&2; exit 3", "the command ended with status 3: why", 6),
        ("cat {tar} ; exit 141", "the command ended with status 141: it printed no reason", 6),
        ("head -c 1000 {tar}", "it is a damaged tar", 6),
        ("cat /nowhere | cat", "it is a damaged tar at offset 0", 6),
        ("gzip -c {tar} | head -c 200", r"it is damaged \(", 6),
        ("gzip -c {tar} | tr a b", r"it is damaged \(", 6),
        ("kill -9 $$", "the command ended with status -9", 6),
        ("no-such-command", "the command ended with status 127: .*not found", 1),
    ],
)
def test_pipes_that_fail(tmp_path: Path, waits: list[float], command: str, message: str, tries: int) -> None:
    tar = write_tar(tmp_path / "a.tar", pngs(3))
    where = f"pipe:{command.format(tar=tar)}"
    with pytest.raises(SourceError, match=message) as error:
        open_source(where, spool=tmp_path / "spool")
    assert where in str(error.value) and "\n" not in str(error.value)
    assert len(waits) == tries - 1
    assert not (tmp_path / "spool").exists()


def test_what_falls_silent(shards: Web, tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_SETTINGS", TransferSettings(retries=1, timeout=0.2))
    shards.fault("1.tar", faults.silence)
    for where in (f"{shards.url}/{{0..2}}.tar", f"pipe:cat {shards.root}/0.tar; exec sleep 600"):
        with pytest.raises(SourceError, match=r"\(2 tries\): no byte came for 0\.2 s"):
            open_source(where, spool=tmp_path / "spool")


def test_each_copy_is_told_and_no_secret_is(shards: Web, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"{shards.url.replace('//', '//me:secret@')}/{{0..2}}.tar?signature=secret"
    said: list[str] = []
    manifest = prepare(where, tmp_path / "out", small(), say=said.append)
    assert said[:3] == [f"copying {shards.url}/{k}.tar" for k in range(3)]
    assert said[3:] == [f"{shards.url}/{{0..2}}.tar: 3 tars, 9 images (9 PNG)"]
    assert manifest.source == f"{shards.url}/{{0..2}}.tar"
    assert not any(b"secret" in path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())
    shards.fault("1.tar", faults.status(403))
    with pytest.raises(PrepareError, match=r"/1\.tar could not be fetched \(1 try\): the server answers 403") as error:
        prepare(where, tmp_path / "again", small())
    assert "secret" not in str(error.value)


def test_patterns_that_mean_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "0.tar", pngs(1))
    monkeypatch.delenv("WDS_NOWHERE", raising=False)
    for pattern, message in (
        ("{0..2}.tar", r"source .*/1\.tar does not exist"),
        ("*.tgz", r"source .*/\*\.tgz does not exist"),
        ("${NOWHERE}/{0..1}.tar", "missing environment variable"),
    ):
        with pytest.raises(SourceError, match=message) as error:
            open_source(f"{tmp_path}/{pattern}")
        assert "\n" not in str(error.value)


def test_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(tar_bytes({"a.png": bytes(1 << 20)})))
    with mounted_or_skipped(tmp_path / "disk", 256) as disk:
        with pytest.raises(SourceError, match=r"^no space left in .*disk/spool for a copy of .*a\.tgz: .*run the same"):
            open_source(str(path), spool=disk / "spool")
        assert not (disk / "spool").exists()


def test_a_copy_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")

    def half(path: Path) -> None:
        path.write_bytes(b"half")
        assert path.name.endswith(".tmp") and path.parent == tmp_path / "spool"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spool.copy("../../it", half)
    assert not (tmp_path / "spool").exists()
    copy = spool.copy("../../it", lambda path: path.write_bytes(b"whole") and None)
    assert copy.parent == tmp_path / "spool" and copy.read_bytes() == b"whole"
    assert spool.copy("../../it", half) == copy
    assert spool.copy("another", lambda path: path.write_bytes(b"x") and None) != copy
