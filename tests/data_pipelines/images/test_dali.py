"""DALI's loader beside the CPU's, which has tests of its own: the same batches, bit for bit, and the same faults."""

import io
import os
import re
import shutil
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.dataset import Batch, Request, SampleError
from data_pipelines.images.dali_loader import DaliDecoder, DaliError, DaliLoader
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.decode import decode, encode
from data_pipelines.images.headers import is_plain
from data_pipelines.images.loader import Loader
from data_pipelines.images.loaders import LOADERS
from data_pipelines.images.manifest import Manifest
from data_pipelines.images.prepare import PrepareSettings, prepare
from data_pipelines.images.store import Directory
from tests.command import ENVIRONMENT
from tests.helpers import CPU, on_processes
from tests.prepared import rebuild, replace_image

TRAIN, TEST = 32, 4
SEED = 5
SETS = {"png": {"format": "png"}, "jpeg": {"format": "jpeg"}, "grey png": {"channels": 1}}
SETS["grey jpeg"] = SETS["jpeg"] | SETS["grey png"]


def noise(i: int, side: int = 32) -> NDArray[np.uint8]:
    return np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """36 images of two classes, 4 of them for testing; 4 and 8 px are arrays, 16 and 32 px tars of 8 images."""
    folder = tmp_path_factory.mktemp("dali")
    for i in range(TRAIN + TEST):
        path = folder / "source" / "ab"[i % 3 == 0] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(i)).save(path)
    known = {"resolution": 32, "array_max_resolution": 8, "shard_size": 8, "test": TEST}
    for name, settings in SETS.items():
        prepare(folder / "source", folder / name, PrepareSettings.model_validate(known | settings))
    return {name: folder / name for name in SETS}


@pytest.fixture(params=SETS)
def root(roots: dict[str, Path], request: pytest.FixtureRequest) -> Path:
    return roots[request.param]


@pytest.fixture
def copy(roots: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Copies a data set, to be damaged."""
    return lambda name: Path(shutil.copytree(roots[name], tmp_path / "set"))


def make(root: Path, loader: str, device: torch.device = CPU, **changes: Any) -> Loader:
    settings = ImageSettings.model_validate({"path": str(root), "loader": loader} | changes)
    return LOADERS[loader](settings, Directory(root), Manifest.load(root), SEED, device)


def decoded_by_dali(loader: Loader) -> int:
    assert isinstance(loader, DaliLoader)
    return loader.decoder.decoded


def batches(root: Path, loader: str, requests: Sequence[Request], **changes: Any) -> list[Batch]:
    made = make(root, loader, **changes)
    try:
        return list(made.batches(requests))
    finally:
        made.close()


def assert_equal(got: Sequence[Batch], want: Sequence[Batch]) -> None:
    assert len(got) == len(want)
    for batch, other in zip(got, want, strict=True):
        assert batch.x.dtype == torch.float32 and batch.x.is_contiguous()
        assert torch.equal(batch.x, other.x)
        assert batch.y is not None and other.y is not None and torch.equal(batch.y, other.y)
        assert batch.replaced == other.replaced


def from_shares(shares: Sequence[tuple[int, int]], start: int = 0) -> list[Request]:
    """Requests one after the other, of (count, resolution)."""
    positions = accumulate((count for count, _ in shares), initial=start)
    return [Request(position, *share) for position, share in zip(positions, shares, strict=False)]


REQUESTS = from_shares(
    [(8, 4), (12, 8), (6, 16), (6, 16), (20, 16), (1, 16), (30, 32), (30, 32), (7, 32), (3, 8), (9, 16)]
)
"""Growing as a run does and then back, with batches larger and smaller than the first of a level; four epochs."""
DECODED = sum(request.count for request in REQUESTS if request.stage > 8)


# The same batches.


@pytest.mark.parametrize(("threads", "prefetch"), [(1, 1), (3, 4), (2, 50)])
def test_batches(root: Path, threads: int, prefetch: int) -> None:
    loader = make(root, "dali", threads=threads, prefetch=prefetch)
    got = list(loader.batches(REQUESTS))
    assert_equal(got, batches(root, "cpu", REQUESTS))
    assert loader.decoded == decoded_by_dali(loader) == DECODED
    assert loader.wait_seconds > 0
    loader.close()
    assert loader.decoded == DECODED


def test_pixels_are_those_that_were_stored(roots: dict[str, Path]) -> None:
    """And not only those of the other loader."""
    loader = make(roots["png"], "dali")
    (batch,) = loader.batches([Request(0, TRAIN, 32)])
    samples, flips = loader.order.at(0, TRAIN)
    names = (roots["png"] / Manifest.load(roots["png"]).names.name).read_text().split()
    numbers = [int(Path(names[sample]).stem) for sample in samples]
    assert 5 < flips.sum() < TRAIN - 5
    for image, number, flipped in zip(batch.x, numbers, flips, strict=True):
        pixels = noise(number)[:, ::-1] if flipped else noise(number)
        assert torch.equal(((image + 1) * 127.5).round().byte(), torch.tensor(pixels.transpose(2, 0, 1).copy()))
    loader.close()


def test_without_flips(root: Path) -> None:
    got, want, flipped = (
        batches(root, loader, REQUESTS[6:7], flip=flip)
        for loader, flip in (("dali", False), ("cpu", False), ("dali", True))
    )
    assert_equal(got, want)
    assert not torch.equal(got[0].x, flipped[0].x)


def test_no_array_is_decoded(root: Path) -> None:
    loader = make(root, "dali")
    requests = from_shares([(8, 4), (8, 8)])
    assert_equal(list(loader.batches(requests)), batches(root, "cpu", requests))
    assert loader.decoded == 0
    loader.close()


def test_every_batch_can_be_the_first_of_a_resumed_run(roots: dict[str, Path]) -> None:
    whole = batches(roots["jpeg"], "dali", REQUESTS)
    for first in range(len(REQUESTS)):
        assert_equal(batches(roots["jpeg"], "dali", REQUESTS[first:]), whole[first:])


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_a_batch(root: Path, world: int) -> None:
    requests = from_shares([(12, 16), (24, 16), (12, 32)])
    whole = batches(root, "cpu", requests)
    parts = []
    for rank in range(world):
        shares = [(request, request.count // world) for request in requests]
        own = [Request(request.position + rank * count, count, request.stage) for request, count in shares]
        parts.append(batches(root, "dali", own))
    for batch, *slices in zip(whole, *parts, strict=True):
        assert torch.equal(torch.cat([part.x for part in slices]), batch.x)


def test_batches_that_are_kept_stay_as_they_are(roots: dict[str, Path]) -> None:
    """While later ones are decoded and after the pipeline is gone."""
    loader = make(roots["png"], "dali", threads=3, prefetch=4)
    kept = list(loader.batches(from_shares([(8, 32)] * 30)))
    loader.close()
    assert_equal(kept, batches(roots["png"], "cpu", from_shares([(8, 32)] * 30)))


def test_pictures_for_the_eye(root: Path) -> None:
    opened = [ImageSettings(path=str(root), loader=name).open(SEED, CPU) for name in ("dali", "cpu")]
    for resolution in (8, 32):
        pictures, others = (one.samples(resolution, [0, 33]) for one in opened)
        assert torch.equal(pictures.x, others.x) and not pictures.damaged
    for one in opened:
        one.close()


# Damage.


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return saved(rgb, "JPEG", exif=exif, quality=95, subsampling=0)


def flipped_bit(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


rgb = Image.fromarray(noise(99, 16))
PNG, JPEG = encode(noise(99, 16), "png", 95), encode(noise(99, 16), "jpeg", 95)
SCAN = JPEG.index(b"\xff\xda")

BAD = {
    "garbage": b"\0garbage" * 40,
    "empty": b"",
    "half png": PNG[: len(PNG) // 2],
    "png without an end": PNG[:-12],
    "png of wrong pixels": flipped_bit(PNG, len(PNG) // 2),
    "png with a chunk too long": PNG[:33] + b"\x7f" + PNG[34:],
    "half jpeg": JPEG[: len(JPEG) // 2],
    "jpeg without its last pixels": JPEG[:-9],
    "jpeg without its header": JPEG[:SCAN],
    "jpeg without a scan": JPEG[:SCAN] + b"\xff\xd9",
    "jpeg with a segment too long": JPEG[:4] + b"\xff" + JPEG[5:],
    "larger": encode(noise(99, 32), "png", 95),
    "smaller": encode(noise(99, 8), "jpeg", 95),
    "oblong": encode(noise(99, 16)[:8], "jpeg", 95),
    "grey png": saved(rgb.convert("L"), "PNG"),
    "png with alpha": saved(rgb.convert("RGBA"), "PNG"),
    "webp": saved(rgb, "WEBP", lossless=True),
    "bmp": saved(rgb, "BMP"),
}
"""What cannot stand in a level of 16 px in colour, behind a checksum that agrees."""

ODD = {
    "jpeg": JPEG,
    "png": PNG,
    "grey jpeg": saved(rgb.convert("L"), "JPEG"),
    "palette": saved(rgb.convert("P"), "PNG"),
    "cmyk": saved(rgb.convert("CMYK"), "JPEG"),
    "progressive": saved(rgb, "JPEG", progressive=True),
    "half colour": saved(rgb, "JPEG", subsampling=2),
    "upright it would be another": turned(),
    "jpeg without an end": JPEG[:-2],
    "jpeg with more behind it": JPEG + b"more",
    "jpeg with more before its end": JPEG[:-2] + b"more than a decoder reads ahead" + JPEG[-2:],
    "jpeg with more between its parts": JPEG[:20] + b"odd" + JPEG[20:],
    "png with more behind it": PNG + b"more",
}
"""What `sivae data prepare` would not write, and the CPU's loader takes nevertheless."""

WHOLE = [Request(position, TRAIN, 16) for position in (0, TRAIN)]
"""Two epochs, in batches so large that DALI reads their headers in several threads."""


def shared_fault(root: Path, requests: Sequence[Request] = WHOLE, **changes: Any) -> str:
    """With what both loaders end."""
    messages = set()
    for loader in ("cpu", "dali"):
        with pytest.raises(SampleError) as caught:
            batches(root, loader, requests, **changes)
        messages.add(str(caught.value))
    (message,) = messages
    return message


@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize("name", ["png", "jpeg"])
def test_what_cannot_be_decoded_is_fatal_or_replaced(copy: Callable[[str], Path], name: str, content: str) -> None:
    root = copy(name)
    replace_image(root, BAD[content])
    for shift in range(8):  # it stands elsewhere in the batch each time, so that each of DALI's threads has its turn
        requests = from_shares([(TRAIN, 16)] * 2, start=4 * shift)
        message = shared_fault(root, requests, threads=1 + shift % 3)
        assert re.search(
            r"0016/shard-00001\.tar key \d{8} \(sample 11\) (cannot be decoded \(|is \d+x\d+, not 16x16$)", message
        )
    loader = make(root, "dali", faults="quarantine", max_faults=1.0)
    got = list(loader.batches(WHOLE))
    assert_equal(got, batches(root, "cpu", WHOLE, faults="quarantine", max_faults=1.0))
    assert [[one.sample for one in batch.replaced] for batch in got] == [[11], [11]]
    assert decoded_by_dali(loader) == 2 * TRAIN
    loader.close()


@pytest.mark.parametrize("content", ODD)
def test_what_is_odd_is_decoded_as_by_the_cpus_loader(copy: Callable[[str], Path], content: str) -> None:
    root = copy("png")
    replace_image(root, ODD[content])
    assert_equal(batches(root, "dali", WHOLE), batches(root, "cpu", WHOLE))


@pytest.mark.parametrize("name", ["png", "jpeg"])
def test_damage_of_all_kinds_in_one_batch(copy: Callable[[str], Path], name: str) -> None:
    """So much of it that substitutes are damaged too."""
    root = copy(name)
    for number, shard in enumerate(("0016/shard-00000.tar", "0016/shard-00001.tar", "0016/shard-00002.tar")):

        def edit(samples: Any, first: int = 5 * number) -> None:
            for row, content in enumerate(list(BAD.values())[first : first + 5]):
                members = samples[row][1]
                members[next(ending for ending in members if ending != "cls")] = content

        rebuild(root, edit, shard)
    tar = root / "0016/shard-00003.tar"
    content = bytearray(tar.read_bytes())
    content[1600:1700] = bytes(100)  # what its checksum tells
    tar.write_bytes(content)
    quarantine: dict[str, Any] = {"faults": "quarantine", "max_faults": 1.0, "threads": 3}
    got = batches(root, "dali", WHOLE, **quarantine)
    assert_equal(got, batches(root, "cpu", WHOLE, **quarantine))
    assert [len(batch.replaced) for batch in got] == [16, 16]
    assert shared_fault(root)


def test_a_shard_that_is_gone(copy: Callable[[str], Path]) -> None:
    root = copy("jpeg")
    (root / "0016/shard-00002.tar").unlink()
    assert "shard-00002.tar cannot be read" in shared_fault(root)
    quarantine: dict[str, Any] = {"faults": "quarantine", "max_faults": 1.0}
    got = batches(root, "dali", WHOLE, **quarantine)
    assert_equal(got, batches(root, "cpu", WHOLE, **quarantine))
    assert [len(batch.replaced) for batch in got] == [8, 8]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("file_format", ["png", "jpeg"])
def test_what_prepare_writes_is_plain_and_nothing_else(channels: int, file_format: Any) -> None:
    """Only of that can it be said that DALI's parser gets through it."""
    for side in (16, 256):
        data = encode(noise(0, side)[..., :channels], file_format, 95)
        assert is_plain(data, side, channels)
        assert not is_plain(data, 2 * side, channels) and not is_plain(data, side, 4 - channels)
        header = data.index(b"IDAT" if file_format == "png" else b"\xff\xda")
        for place in range(header):
            assert not is_plain(data[:place], side, channels)
        assert not is_plain(data[:-1], side, channels)
    for content in [*BAD.values(), *ODD.values()]:
        if content not in (PNG, JPEG) and is_plain(content, 16, 3):
            assert content[:4] in (PNG[:4], JPEG[:4])  # of these the compressed pixels are damaged


def test_segments_and_chunks_that_do_not_belong() -> None:
    assert is_plain(PNG, 16, 3) and is_plain(JPEG, 16, 3)
    assert not is_plain(PNG.replace(b"IEND", b"tEXt"), 16, 3)
    frame = JPEG.index(b"\xff\xc0")
    framed = frame + 2 + int.from_bytes(JPEG[frame + 2 : frame + 4])
    assert not is_plain(JPEG[:frame] + JPEG[framed:], 16, 3)
    assert not is_plain(JPEG[:framed] + JPEG[frame:], 16, 3)
    assert not is_plain(JPEG[: SCAN + 2] + b"\xff" + JPEG[SCAN + 3 :], 16, 3)


# DALI itself.


def test_a_decoder_goes_on_after_an_error() -> None:
    decoder = DaliDecoder(3, 2, CPU)
    sound = [encode(noise(i), "jpeg", 95) for i in range(32)]
    want = np.empty((32, 32, 32, 3), np.uint8)
    for data, out in zip(sound, want, strict=True):
        decode(data, out)
    mirrored = np.arange(32) % 3 == 0
    want[mirrored] = want[mirrored][:, :, ::-1]
    for place in range(32):
        damaged = [*sound[:place], sound[place][: len(sound[place]) // 2], *sound[place + 1 :]]
        with pytest.raises(DaliError, match=r"^DALI could not decode a batch of 32 images \(.+\)$") as caught:
            decoder.decode(damaged, mirrored, 32)
        assert "\n" not in str(caught.value) and "File" not in str(caught.value)
        pixels = decoder.decode(sound, mirrored, 32)
        np.testing.assert_array_equal(pixels.permute(0, 2, 3, 1).numpy(), want)
    assert decoder.decoded == 32 * 32
    decoder.close()
    with pytest.raises(ValueError, match="closed"):
        decoder.decode(sound, mirrored, 32)


def test_an_error_that_is_no_images_fault_is_not_hidden(
    roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a GPU without memory; under quarantine too, and though the next attempt might succeed."""
    run = DaliDecoder._run

    def fail(*_: Any) -> Any:
        monkeypatch.setattr(DaliDecoder, "_run", run)
        raise RuntimeError("Critical error in pipeline: ... encountered:\n\nout of memory\nCurrent pipeline object is")

    monkeypatch.setattr(DaliDecoder, "_run", fail)
    with pytest.raises(DaliError, match=r"32 images \(out of memory\)"):
        batches(roots["png"], "dali", WHOLE, faults="quarantine", max_faults=1.0)


Use = tuple[float, int, int]


def _in_use(threads: int | None = None) -> Use:
    """Of this process: MB, threads, open files; as soon as no more than so many threads are left.

    Those that have been joined may take a moment to end.
    """
    end = time.monotonic() + 30
    while threads is not None and len(os.listdir("/proc/self/task")) > threads and time.monotonic() < end:
        time.sleep(0.01)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return resident, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def _rebuild(root: Path, times: int, device: torch.device = CPU) -> list[Use]:
    """Changes phase so often; what is in use after each, and when the loader is closed."""
    loader = make(root, "dali", device, threads=2)
    assert isinstance(loader, DaliLoader)
    pipelines, used, position = [], [], 0
    for number in range(times):
        count, resolution = 4 + 7 * number % 29, (16, 32)[number % 2]
        for _ in loader.batches(from_shares([(count, resolution)] * 3, position)):
            pass
        position += 3 * count
        pipelines.append(weakref.ref(loader.decoder._pipeline))
        assert [pipeline() is not None for pipeline in pipelines] == [False] * number + [True]
        used.append(_in_use())
    used[-1] = _in_use(used[:6][-1][1])
    loader.close()
    return [*used, _in_use(used[-1][1] - 4)]


@pytest.mark.slow
def test_nothing_grows_with_the_changes_of_phase(roots: dict[str, Path]) -> None:
    (used,) = on_processes(1, _rebuild, roots["jpeg"], 50)
    memory, threads, files = zip(*used, strict=True)
    assert memory[49] <= 1.02 * memory[4]
    assert threads[49] <= threads[5] and files[49] <= files[5]
    assert threads[50] <= threads[49] - 4 and files[50] < files[49]  # the loader's two, and as many of DALI's


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_gpu_memory_grows_with_the_changes_of_phase(roots: dict[str, Path]) -> None:
    (used,) = on_processes(1, _rebuild_on_a_gpu, roots["jpeg"])
    assert used[1] <= 1.02 * used[0]


def _rebuild_on_a_gpu(root: Path) -> list[int]:
    """Of the whole device, after 5 and after 50."""
    used = []
    for times in (5, 45):
        _rebuild(root, times, torch.device("cuda", 0))
        free, total = torch.cuda.mem_get_info(0)
        used.append(total - free)
    return used


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(root: Path) -> None:
    """PNGs are decoded by the CPU there too; another decoder of JPEGs may round another way."""
    loader = make(root, "dali", device=torch.device("cuda"))
    want = batches(root, "cpu", REQUESTS)
    atol = 0 if "png" in root.name else 4 / 127.5
    for batch, other in zip(loader.batches(REQUESTS), want, strict=True):
        assert batch.x.device.type == "cuda" and batch.x.is_contiguous()
        torch.testing.assert_close(batch.x.cpu(), other.x, rtol=0, atol=atol)
        assert batch.y is not None and batch.y.device.type == "cuda"
    assert decoded_by_dali(loader) == DECODED
    loader.close()


# Without DALI.


def test_a_package_that_is_missing(roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(
        ValueError, match=r"^data\.loader=dali needs NVIDIA DALI \(.*\): pip install nvidia-dali-cuda130$"
    ):
        make(roots["png"], "dali")
    make(roots["png"], "cpu").close()


@pytest.mark.slow
def test_who_does_not_use_it_does_not_import_it() -> None:
    check = "import sys, sivae_dist.train.trainer, launch.cli.train; sys.exit('nvidia.dali' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], env=ENVIRONMENT, timeout=120, check=False).returncode == 0
