"""Other loaders on the data of benchmarks/loader.py: each yields, for ever, how many images its batches held.

All give uint8 batches, from one process without workers unless it is said, and none shuffles more than named, which is
in their favour.
"""

import io
import shutil
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

BATCH = 32


def tars(folder: Path, resolution: int) -> list[str]:
    return sorted(str(path) for path in (folder / f"{resolution:04d}").glob("*.tar"))


def by_simplejpeg(data: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data, colorspace="RGB", fastdct=False, fastupsample=False, strict=True
    )
    return pixels


def by_pillow(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def webdataset(
    folder: Path, resolution: int, member: str, decode: Callable[[bytes], NDArray[np.uint8]]
) -> Iterator[int]:
    for (batch,) in _samples(folder, resolution, member, decode):
        yield len(batch)


def webdataset_worker(
    folder: Path, resolution: int, member: str, decode: Callable[[bytes], NDArray[np.uint8]]
) -> Iterator[int]:
    """As people use it: in a worker process of PyTorch's DataLoader, from which batches are copied."""
    import webdataset as wds

    for (batch,) in wds.WebLoader(_samples(folder, resolution, member, decode), batch_size=None, num_workers=1):
        yield len(batch)


def _samples(folder: Path, resolution: int, member: str, decode: Callable[[bytes], NDArray[np.uint8]]) -> Any:
    import webdataset as wds

    urls = tars(folder, resolution)
    samples: Any = wds.WebDataset(urls, shardshuffle=len(urls), nodesplitter=None).repeat()
    return samples.to_tuple(member).map_tuple(decode).batched(BATCH)


def dali_cpu(folder: Path, resolution: int, member: str) -> Iterator[int]:
    dali = import_module("nvidia.dali")
    fn = dali.fn

    pipeline = dali.Pipeline(batch_size=BATCH, num_threads=1, device_id=None)
    with pipeline:
        data = fn.readers.webdataset(
            paths=tars(folder, resolution), ext=[member], random_shuffle=True, initial_fill=1000
        )
        pipeline.set_outputs(fn.decoders.image(data, device="cpu", output_type=dali.types.RGB))
    pipeline.build()
    while True:
        (batch,) = pipeline.run()
        yield len(batch.as_array())


def litdata_bytes(data: bytes) -> dict[str, bytes]:
    """What `litdata.optimize` is to store of an image."""
    return {"image": data}


def litdata_simplejpeg(folder: Path, resolution: int) -> Iterator[int]:
    import torch

    litdata = import_module("litdata")

    copy = folder.with_name(f"{folder.name}-litdata-{resolution}")
    if not (copy / "index.json").exists():
        shutil.rmtree(copy, ignore_errors=True)
        stored = list(stored_images(folder, resolution))
        litdata.optimize(litdata_bytes, stored, str(copy), chunk_bytes="64MB", num_workers=1, verbose=False)

    def decode(sample: dict[str, bytes]) -> torch.Tensor:
        return torch.from_numpy(by_simplejpeg(sample["image"]))

    images = litdata.StreamingDataset(str(copy), shuffle=True, transform=decode)
    loader = litdata.StreamingDataLoader(images, batch_size=BATCH, num_workers=0)
    while True:
        for batch in loader:
            yield len(batch)


def zip_of_pngs(folder: Path, resolution: int) -> Iterator[int]:
    """How StyleGAN's tools keep data: an uncompressed zip of PNG files, read in random order."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    path = folder.with_name(f"{folder.name}-{resolution}.zip")
    if not path.exists():
        with zipfile.ZipFile(path.with_suffix(".tmp"), "w") as archive:
            for number, data in enumerate(stored_images(folder, resolution)):
                archive.writestr(f"{number:08d}.png", data)
        path.with_suffix(".tmp").rename(path)

    class Images(Dataset[torch.Tensor]):
        def __init__(self) -> None:
            self.archive = zipfile.ZipFile(path)
            self.names = self.archive.namelist()

        def __len__(self) -> int:
            return len(self.names)

        def __getitem__(self, index: int) -> torch.Tensor:
            with self.archive.open(self.names[index]) as file:
                return torch.from_numpy(np.array(Image.open(file)).transpose(2, 0, 1))

    while True:
        for batch in DataLoader(Images(), batch_size=BATCH, shuffle=True):
            yield len(batch)


def stored_images(folder: Path, resolution: int) -> Iterator[bytes]:
    """All images of a prepared data set's level, as they are stored."""
    from data_pipelines.images.reader import Reader
    from data_pipelines.images.store import Directory

    store = Directory(folder)
    manifest = store.manifest()
    reader = Reader(store, manifest, resolution)
    for sample in range(manifest.samples):
        yield reader.raw(sample)
    reader.close()
