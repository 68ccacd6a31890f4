import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import torch.distributed as dist
from fsspec.asyn import get_loop

from data_pipelines import order
from data_pipelines.dataset import SAME_CLASS, Needs, Request
from data_pipelines.images import reader, remote
from data_pipelines.images.cache import CacheError
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.loader import Loader
from data_pipelines.images.manifest import FileRecord, Manifest
from data_pipelines.images.opening import open_store
from data_pipelines.images.remote import RemoteSettings, RemoteStore
from data_pipelines.images.store import Directory
from data_pipelines.images.transport import RemoteError
from data_pipelines.order import Order
from sivae_dist.config.opening import prepare_run
from sivae_dist.process.processes import rank
from sivae_dist.run.directory import RunDirectory
from tests import web as faults
from tests.data_pipelines.images.test_cache import total, until
from tests.helpers import assert_same, labelled_set, on_processes, random_set, start_process, tiny_settings, trained
from tests.web import Fault, Web, status

RETRIES = 3


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 samples in 4 shards; 4 px are arrays, 8 px tars."""
    return random_set(tmp_path_factory.mktemp("remote") / "set", array_max_resolution=4)


@pytest.fixture
def web(root: Path) -> Iterator[Web]:
    with Web(root) as web:
        yield web


@pytest.fixture(scope="module")
def what_stays() -> None:
    """fsspec's own thread, and the server that starts processes."""
    get_loop()
    on_processes(1, os.getpid)


@pytest.fixture(autouse=True)
def nothing_left(what_stays: None) -> Iterator[None]:
    """No thread, file or connection outlives its store."""
    before = len(os.listdir("/proc/self/fd"))
    yield
    until(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch")]


def settings(folder: Path, **changes: Any) -> RemoteSettings:
    return RemoteSettings.model_validate(
        {"cache": str(folder / "cache"), "retries": RETRIES, "backoff": 0.001, "timeout": 20} | changes
    )


def records(root: Path) -> list[FileRecord]:
    """All of a data set's levels, in the order of their use."""
    levels = Manifest.load(root).levels.values()
    return [record for level in levels for record in (*level.files, *level.indexes)]


def check(store: RemoteStore | Any, root: Path) -> None:
    """All that is to be had there is what is in the directory."""
    assert store.manifest() == Manifest.load(root)
    for record in records(root):
        assert store.file(record).read_bytes() == (root / record.name).read_bytes()


def in_cache(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cache").iterdir()} - {"lock"}


def test_a_path_is_a_directory(root: Path) -> None:
    for path in (str(root), "relative/set", "odd:name"):
        assert isinstance(open_store(path), Directory)


def test_a_whole_set(web: Web, root: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with open_store(web.url, settings(tmp_path)) as store:
            assert store.remote and store.location == web.url
            assert store.name(records(root)[0]) == f"{web.url}/{records(root)[0].name}"
            check(store, root)
    assert web.requests == Counter({record.name: 1 for record in records(root)} | {"manifest.json": 2})
    assert in_cache(tmp_path) == {record.sha256 for record in records(root)}


def test_a_changed_set_at_the_same_place(web: Web, root: Path, tmp_path: Path) -> None:
    other = random_set(tmp_path / "other", samples=10, array_max_resolution=4)
    for now in (root, other, root):
        web.root = now
        with open_store(web.url, settings(tmp_path)) as store:
            check(store, now)
    assert web.requests["0004/shard-00000.npy"] == 1  # the same in both
    assert web.requests["0004/shard-00001.npy"] == 2


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (status(500), "the server answers 500 Internal Server Error"),
        (status(503), "the server answers 503 Service Unavailable"),
        (status(429), "the server answers 429 Too Many Requests"),
        (faults.cut, "Response payload is not completed"),
        (faults.short, "it ended after 232 of 464 bytes"),
        (faults.long, "it is longer than the 464 bytes in the manifest"),
        (faults.corrupt, "its SHA-256 differs from the manifest's"),
        (faults.silence, "no byte came for 2 s"),
        (faults.stall, "no byte came for 2 s"),
    ],
    ids=["500", "503", "429", "cut", "short", "long", "corrupt", "silence", "stall"],
)
def test_what_may_pass_is_tried_again(web: Web, root: Path, tmp_path: Path, fault: Fault, cause: str) -> None:
    """As often as the settings say, and then given up."""
    first, second = records(root)[:2]
    # The time-out is for the try that succeeds as well, however busy the machine.
    retries, timeout = (1, 2) if "no byte" in cause else (RETRIES, 20)
    web.fault(first.name, fault, retries)
    web.fault(second.name, fault)
    with open_store(web.url, settings(tmp_path, retries=retries, timeout=timeout)) as store:
        assert store.file(first).read_bytes() == (root / first.name).read_bytes()
        with pytest.raises(RemoteError) as caught:
            store.file(second)
    assert web.requests == {first.name: retries + 1, second.name: retries + 1}
    message = str(caught.value)
    assert message.startswith(f"{web.url}/{second.name} could not be fetched ({retries + 1} tries): ")
    assert cause in message and "\n" not in message
    assert in_cache(tmp_path) == {first.sha256}


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
def test_what_will_not_pass_is_not(web: Web, root: Path, tmp_path: Path, code: int) -> None:
    record = records(root)[0]
    web.fault(record.name, status(code))
    with open_store(web.url, settings(tmp_path)) as store:
        cause = "there is no such file" if code == 404 else f"the server answers {code} "
        with pytest.raises(RemoteError, match=rf"{record.name} could not be fetched \(1 try\): {cause}"):
            store.file(record)
    assert web.requests[record.name] == 1


def test_no_server(root: Path, tmp_path: Path) -> None:
    with Web(root) as web:
        url = web.url
    with open_store(url, settings(tmp_path)) as store, pytest.raises(RemoteError, match=r"4 tries.*Cannot connect"):
        store.manifest()


def test_waits_double_up_to_a_minute() -> None:
    assert RemoteSettings(backoff=8.0, retries=5).delays == [8, 16, 32, 60, 60]
    assert RemoteSettings(retries=0).delays == []


def test_slow_is_not_silent(web: Web, root: Path, tmp_path: Path) -> None:
    """In all it takes longer than the time-out, which is for the time without a byte."""
    record = next(record for record in records(root) if record.name.endswith(".tar"))
    web.fault(record.name, faults.trickle(2.5))
    with open_store(web.url, settings(tmp_path, timeout=2)) as store:
        assert store.file(record).read_bytes() == (root / record.name).read_bytes()
    assert web.requests[record.name] == 1


def test_no_limit_on_the_whole_transfer(web: Web, tmp_path: Path) -> None:
    """aiohttp would end it after five minutes, which no test waits for."""
    with open_store(web.url, settings(tmp_path, timeout=7)) as store:
        assert isinstance(store, RemoteStore)
        limit = store._transport._session.timeout  # type: ignore[attr-defined]
        assert (limit.total, limit.sock_read, limit.sock_connect) == (None, 7, 7)


# The manifest.


def test_the_manifest_is_tried_again(web: Web, root: Path, tmp_path: Path) -> None:
    web.fault("manifest.json", status(502), 1)
    web.fault("manifest.json", faults.cut, 1)
    with open_store(web.url, settings(tmp_path)) as store:
        assert store.manifest() == Manifest.load(root)
    assert web.requests["manifest.json"] == 3


def test_no_manifest(web: Web, tmp_path: Path) -> None:
    with open_store(f"{web.url}/elsewhere", settings(tmp_path)) as store:
        with pytest.raises(FileNotFoundError, match=rf"^no prepared data set at {web.url}/elsewhere: .*no such file"):
            store.manifest()


def test_something_else_for_a_manifest(web: Web, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(web.url, settings(tmp_path)) as store:
        web.root = tmp_path
        (tmp_path / "manifest.json").write_text("<html>")
        with pytest.raises(ValueError, match=rf"^{web.url}/manifest.json is damaged"):
            store.manifest()
        (tmp_path / "manifest.json").write_text('{"format": "sivae-data", "version": 2}')
        with pytest.raises(ValueError, match="has version 2"):
            store.manifest()
        web.root = root
        monkeypatch.setattr(remote, "MAX_MANIFEST_BYTES", 100)
        with pytest.raises(RemoteError, match=r"1 try.*more than 100 bytes"):
            store.manifest()


# Several at once.


def read_all(url: str, root: Path, chosen: RemoteSettings, ahead: bool) -> None:
    with open_store(url, chosen) as store:
        if ahead:
            store.expect(records(root))
        check(store, root)


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [False, True])
def test_two_processes_fetch_each_file_once(web: Web, root: Path, tmp_path: Path, ahead: bool) -> None:
    web.fault("*", faults.trickle(0.4))
    on_processes(2, read_all, web.url, root, settings(tmp_path, threads=1), ahead)
    assert web.requests == Counter({record.name: 1 for record in records(root)} | {"manifest.json": 2})


def test_two_processes_and_little_room(web: Web, root: Path, tmp_path: Path) -> None:
    """Room for one tar: what one process is about to open, another removes. Nobody may notice."""
    largest = max(record.bytes for record in records(root))
    on_processes(2, read_all, web.url, root, settings(tmp_path, cache_gb=(largest + 500) / 1e9), True)
    assert total(tmp_path / "cache") <= largest + 500


def fetch_one(url: str, record: FileRecord, chosen: RemoteSettings) -> None:
    with open_store(url, chosen) as store:
        store.file(record)


def test_another_takes_over_from_a_killed_process(web: Web, root: Path, tmp_path: Path) -> None:
    record = records(root)[0]
    web.fault(record.name, faults.stall, 1)
    process = start_process(fetch_one, web.url, record, settings(tmp_path))
    until(lambda: web.requests[record.name] == 1)
    until(lambda: in_cache(tmp_path) == {f"{record.sha256}.partial"})
    with open_store(web.url, settings(tmp_path)) as store, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(store.file, record)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        assert web.requests[record.name] == 1
        process.kill()
        process.join()
        assert waiting.result(30).read_bytes() == (root / record.name).read_bytes()
    assert web.requests[record.name] == 2
    assert in_cache(tmp_path) == {record.sha256}


def test_a_path_stays_good_until_the_thread_asks_again(web: Web, root: Path, tmp_path: Path) -> None:
    first, second = (record for record in records(root)[:2])
    with open_store(web.url, settings(tmp_path, cache_gb=(first.bytes + 1) / 1e9)) as store:
        path = store.file(first)
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(store.file, second).result()
        assert in_cache(tmp_path) == {second.sha256}
        assert path.read_bytes() == (root / first.name).read_bytes()
        assert other.read_bytes() == (root / second.name).read_bytes()
        assert path.read_bytes() == (root / first.name).read_bytes()


# Ahead.


def test_expected_files_are_there_when_asked_for(web: Web, root: Path, tmp_path: Path) -> None:
    with open_store(web.url, settings(tmp_path)) as store:
        store.expect(records(root))
        until(lambda: in_cache(tmp_path) == {record.sha256 for record in records(root)})
        before = web.requests.copy()
        for record in records(root):
            assert store.file(record).read_bytes() == (root / record.name).read_bytes()
    assert web.requests == before == Counter(record.name for record in records(root))


def test_half_of_the_cache_at_most_is_filled_ahead(web: Web, root: Path, tmp_path: Path) -> None:
    """In their order; what is asked for makes room for the next."""
    tars = [record for record in records(root) if record.name.endswith(".tar")]
    large = tars[0].bytes
    assert len(tars) == 4 and {record.bytes for record in tars} == {large}
    with open_store(web.url, settings(tmp_path, cache_gb=(4 * large + 10) / 1e9)) as store:
        store.expect(tars)
        until(lambda: len(in_cache(tmp_path)) == 2 and not any("partial" in name for name in in_cache(tmp_path)))
        assert web.requests.keys() == {tars[0].name, tars[1].name}
        store.file(tars[0])
        until(lambda: tars[2].sha256 in in_cache(tmp_path))
        assert web.requests.keys() == {record.name for record in tars[:3]}
        store.expect(tars[3:])  # the two that nobody has asked for are not waited for any more
        until(lambda: tars[3].sha256 in in_cache(tmp_path))
    assert web.requests == Counter(record.name for record in tars)


def test_what_does_not_fit_ahead_is_left_out(web: Web, root: Path, tmp_path: Path) -> None:
    tar, array = (next(record for record in records(root) if record.name.endswith(end)) for end in (".tar", ".npy"))
    with open_store(web.url, settings(tmp_path, cache_gb=(tar.bytes + 10) / 1e9)) as store:
        store.expect([tar, array])
        until(lambda: array.sha256 in in_cache(tmp_path))
        assert tar.sha256 not in in_cache(tmp_path)
        assert store.file(tar).read_bytes() == (root / tar.name).read_bytes()


def test_what_fails_ahead_is_told_when_asked_for(web: Web, root: Path, tmp_path: Path) -> None:
    bad, good = records(root)[:2]
    web.fault(bad.name, status(403))
    web.fault(good.name, status(500), RETRIES)
    with open_store(web.url, settings(tmp_path, threads=1)) as store:
        store.expect([bad, good])
        until(lambda: good.sha256 in in_cache(tmp_path))
        assert web.requests == {bad.name: RETRIES + 1, good.name: RETRIES + 1}
        with pytest.raises(RemoteError, match=f"{bad.name} .*403"):
            store.file(bad)


@pytest.mark.parametrize("fault", [faults.stall, faults.silence, status(500)])
def test_closing_ends_what_goes_on(web: Web, root: Path, tmp_path: Path, fault: Fault) -> None:
    """In the foreground and in the background, whether it transfers, waits for an answer or for the next try."""
    for record in records(root):
        web.fault(record.name, fault)
    store = open_store(web.url, settings(tmp_path, backoff=600, timeout=600))
    with ThreadPoolExecutor(1) as threads:
        store.expect(records(root)[:3])
        waiting = threads.submit(store.file, records(root)[3])
        until(lambda: set(web.requests) >= {record.name for record in (*records(root)[:2], records(root)[3])})
        store.close()
        with pytest.raises(RemoteError, match="was closed"):
            waiting.result(30)
    assert in_cache(tmp_path) == set()
    with pytest.raises(RemoteError, match="was closed"):
        store.file(records(root)[4])


def test_windows_of_shards_are_known_before_their_samples() -> None:
    sizes = [3, 1, 4, 1, 5] * 7  # 35 shards: windows of 16, 16 and 3
    endless, position, counts = Order(sizes, seed=5, flip=False), 0, []
    while position < 2 * sum(sizes):
        window = endless.shards_from(position, 1)
        count = sum(sizes[shard] for shard in window)
        samples, _ = endless.at(position, count)
        assert sorted(np.searchsorted(endless.starts, samples, side="right") - 1) == sorted(
            shard for shard in window for _ in range(sizes[shard])
        )
        assert endless.shards_from(position + count - 1, 1) == window
        assert endless.shards_from(position, 2) == window + endless.shards_from(position + count, 1)
        counts.append(len(window))
        position += count
    assert counts == [16, 16, 3] * 2
    assert len(endless.shards_from(0, 7)) == 2 * 35 + 16


class Told(Directory):
    """A directory that pretends to be elsewhere."""

    remote = True

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.expected: list[list[str]] = []
        self.when_told: Callable[[], object] = lambda: None

    def expect(self, records: Sequence[FileRecord]) -> None:
        self.when_told()
        self.expected.append([record.name for record in records])


def test_a_loader_tells_what_it_will_ask_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once a window and level, for this window and the next, each index before its tar."""
    monkeypatch.setattr(order, "WINDOW", 2)
    store, manifest = Told(root), Manifest.load(root)
    loader = Loader(ImageSettings(path=str(root)), store, manifest, 0, torch.device("cpu"))
    places = [(0, 4), (2, 4), (4, 8), (6, 8), (22, 8), (24, 8)]
    list(loader.batches(Request(position, 2, resolution) for position, resolution in places))
    loader.close()
    windows = [loader.order.shards_from(position, 2) for position in (0, 4, 22, 24)]
    assert windows[0] == windows[1] and sorted(windows[0]) == [0, 1, 2, 3] and windows[2] != windows[3]
    expected = [[f"0004/shard-{shard:05d}.npy" for shard in windows[0]]]
    for window in windows[1:]:
        expected.append([f"0008/shard-{shard:05d}.{end}" for shard in window for end in ("index.npy", "tar")])
    assert store.expected == expected


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 samples of three classes in 12 shards; 4 px are arrays, 8 px tars."""
    return labelled_set(tmp_path_factory.mktemp("remote") / "set", shard_size=2, array_max_resolution=4)


def test_pairs_may_lie_in_any_shard(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All shards are expected, those of the windows first; what is open already is not asked for again."""
    monkeypatch.setattr(order, "WINDOW", 2)
    store, manifest = Told(labelled), Manifest.load(labelled)
    loader = Loader(ImageSettings(path=str(labelled), prefetch=1), store, manifest, 0, torch.device("cpu"))
    opened: list[frozenset[int]] = []
    store.when_told = lambda: opened.append(loader.reader(8).opened())
    for batch in loader.batches(Request(position, 2, 8, (SAME_CLASS,)) for position in (0, 4)):
        assert len(batch.x) == 2
    windows = [loader.order.shards_from(position) for position in (0, 4)]
    loader.close()
    for told, window, known in zip(store.expected, windows, opened, strict=True):
        wanted = [*window, *(shard for shard in range(12) if shard not in window)]
        shards = [shard for shard in wanted if shard not in known]
        assert told == [f"0008/shard-{shard:05d}.{end}" for shard in shards for end in ("index.npy", "tar")]
    assert not opened[0] and 2 <= len(opened[1]) <= 4 and len(windows[0]) == 4


def test_pairs_from_afar(labelled: Path, tmp_path: Path) -> None:
    """The same as from a directory, each file fetched once; a cache that does not hold them is warned of."""
    requests = [Request(4 * k, 4, 8, (SAME_CLASS,)) for k in range(12)]
    needs = Needs({8: (3, 8, 8)}, extra=(SAME_CLASS,))
    with ImageSettings(path=str(labelled)).open(0, torch.device("cpu")) as opened:
        near = list(opened.batches(requests))
        assert opened.warnings(needs) == []
    with Web(labelled) as web:
        chosen = ImageSettings(path=web.url, remote=settings(tmp_path))
        with chosen.open(0, torch.device("cpu")) as opened:
            far = list(opened.batches(requests))
            assert opened.warnings(needs) == []
        assert {web.requests[record.name] for record in records(labelled) if record.name.startswith("0008")} == {1}
        little = ImageSettings(path=web.url, remote=settings(tmp_path, cache_gb=1e-5))
        with little.open(0, torch.device("cpu")) as opened:
            (line,) = opened.warnings(needs)
            assert opened.warnings(Needs({8: (3, 8, 8)})) == []
        assert re.search(
            r"^every batch needs images from all shards of .*, which a cache of 1e-05 GB does not hold", line
        )
    for one, other in zip(far, near, strict=True):
        assert torch.equal(one.x, other.x)
        assert torch.equal(one.extra[SAME_CLASS], other.extra[SAME_CLASS])


# The cache's limits, as they are told.


def test_a_file_larger_than_the_cache(web: Web, root: Path, tmp_path: Path) -> None:
    tar = next(record for record in records(root) if record.name.endswith(".tar"))
    with open_store(web.url, settings(tmp_path, cache_gb=1e-6)) as store:
        with pytest.raises(CacheError, match=rf"^{tar.name} has {tar.bytes} bytes.*set data.remote.cache_gb to at"):
            store.file(tar)
    assert not web.requests


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("JOB", "7")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert RemoteSettings().folder == Path("/home/someone/.cache/sivae-data")
    assert RemoteSettings(cache="~/here").folder == Path("/home/someone/here")
    assert RemoteSettings(cache="/scratch/$JOB/x").folder == Path("/scratch/7/x")
    monkeypatch.setenv("XDG_CACHE_HOME", "/fast")
    assert RemoteSettings().folder == Path("/fast/sivae-data")


# A run.


def tensors_of_a_run(path: Path, location: str, *assignments: str) -> dict[str, torch.Tensor]:
    """On one process of several: what a tiny run ends with. Readers keep one shard open, and so ask often."""
    reader.OPEN_SHARDS = 1
    run = tiny_settings(Path("unused"), f"data.path={location}", *assignments)
    if rank() == 0:
        prepare_run(RunDirectory(path), run)
    dist.barrier()
    return trained(path)


@pytest.mark.slow
def test_a_run_is_the_same_from_afar(web: Web, root: Path, tmp_path: Path) -> None:
    """Two processes, a server that is not at its best, and a cache that holds one shard and little more."""
    bound = max(record.bytes for record in records(root)) + 2000
    web.fault("manifest.json", status(503), 1)
    for record in records(root):
        web.fault(record.name, faults.corrupt, 1)
        web.fault(record.name, status(500), 1)
    chosen = settings(tmp_path, cache_gb=bound / 1e9)
    sizes: list[int] = []

    def measure(web: Web, handler: Any, data: bytes) -> None:
        sizes.append(total(tmp_path / "cache") if (tmp_path / "cache").exists() else 0)
        faults.whole(web, handler, data)

    web.fault("*", measure)
    near = on_processes(2, tensors_of_a_run, tmp_path / "near", str(root))
    far = on_processes(2, tensors_of_a_run, tmp_path / "far", web.url, f"data.remote={chosen.model_dump_json()}")
    for ours, theirs in zip(far, near, strict=True):
        assert_same(ours, theirs)
    assert max(sizes) <= bound
    tars = [web.requests[record.name] for record in records(root) if record.name.endswith(".tar")]
    assert min(tars) >= 3 and max(tars) > 3, "none was removed and fetched again"


# Other ways than the web.


def test_secrets_of_an_address_are_used_and_not_shown(web: Web, root: Path, tmp_path: Path) -> None:
    seen = []

    def answer(web: Web, handler: Any, data: bytes) -> None:
        seen.append((handler.path, handler.headers["Authorization"]))
        handler.send_error(403)

    web.fault("manifest.json", answer)
    url = f"{web.url}?signature=SECRET".replace("http://", "http://me:SECRET@")
    with open_store(url, settings(tmp_path)) as store, pytest.raises(RemoteError) as caught:
        store.manifest()
    assert seen == [("/manifest.json?signature=SECRET", "Basic bWU6U0VDUkVU")]
    assert "SECRET" not in str(caught.value) + store.location and web.url in store.location


def test_memory(root: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(root), "/a/set", recursive=True)
    try:
        with open_store("memory://a/set", settings(tmp_path)) as store:
            check(store, root)
            with pytest.raises(RemoteError, match=r"memory://a/set/gone could not be fetched \(1 try\): there is no"):
                store.file(FileRecord(name="gone", bytes=1, sha256="0" * 64))
    finally:
        memory.rm("/a", recursive=True)


def test_file(root: Path, tmp_path: Path) -> None:
    with open_store(f"file://{root}", settings(tmp_path)) as store:
        check(store, root)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs")])
def test_a_package_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError) as caught:
        open_store(f"{scheme}://bucket/set", settings(tmp_path))
    assert str(caught.value).startswith(f"{scheme}://bucket/set")
    assert str(caught.value).endswith(f"pip install {package}")


def test_an_unknown_protocol(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^nowhere://set: .*nowhere"):
        open_store("nowhere://set", settings(tmp_path))


def test_command(root: Path, tmp_path: Path) -> None:
    with open_store(f"pipe:cat {root}/{{name}}", settings(tmp_path)) as store:
        assert store.name(records(root)[0]) == f"pipe:cat {root}/{records(root)[0].name}"
        check(store, root)


def test_a_command_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^pipe:cat /set .*write \{name\} there$"):
        open_store("pipe:cat /set", settings(tmp_path))


@pytest.mark.parametrize(
    ("command", "tries", "cause"),
    [
        ("cat {name}; echo first >&2; echo no such host >&2; exit 255", RETRIES + 1, "status 255: no such host"),
        ("cat {name}; exit 141", RETRIES + 1, "status 141: it printed no reason"),  # complete, but it was not known
        ("head -c 100 {name}", RETRIES + 1, "it ended after 100 of 464 bytes"),
        ("cat {name}; kill -9 $$", RETRIES + 1, "status -9"),
        ("yes {name}", RETRIES + 1, "it is longer than the 464 bytes"),
        ("no-such-command {name}", 1, "status 127: .*not found"),
    ],
)
def test_a_command_that_fails(root: Path, tmp_path: Path, command: str, tries: int, cause: str) -> None:
    log = tmp_path / "log"
    url = f"pipe:cd {root}; echo . >> {log}; {command}"
    with open_store(url, settings(tmp_path)) as store, pytest.raises(RemoteError, match=cause) as caught:
        store.file(records(root)[0])
    assert f"({tries} tr" in str(caught.value) and "\n" not in str(caught.value)
    assert log.read_text() == ".\n" * tries
    assert in_cache(tmp_path) == set()


def test_a_command_that_hangs_is_ended_with_all_it_started(root: Path, tmp_path: Path) -> None:
    mark = f"600.{time.time_ns()}"  # how long it sleeps tells it from others
    url = f"pipe:cat {root}/{{name}} | (head -c 100; sleep {mark})"
    with open_store(url, settings(tmp_path, timeout=0.2, retries=1)) as store:
        with pytest.raises(RemoteError, match=r"2 tries.*no byte came for 0\.2 s"):
            store.file(records(root)[0])
    until(lambda: not running(f"sleep\0{mark}"))
    store = open_store(url, settings(tmp_path, timeout=600))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(store.file, records(root)[0])
        until(lambda: running(f"sleep\0{mark}"))
        store.close()
        with pytest.raises(RemoteError, match="was closed"):
            waiting.result(30)
    until(lambda: not running(f"sleep\0{mark}"))


def running(command: str) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(command.encode()):
                return True
        except OSError:
            continue
    return False
