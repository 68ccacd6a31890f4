"""Pictures and archives of them for the tests of sources."""

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_pipelines.images.prepare import PrepareSettings


def noise(i: int, height: int = 16, width: int = 16) -> NDArray[np.uint8]:
    """Every picture another, every pixel another."""
    return np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(pixels: NDArray[Any], kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pngs(count: int, name: str = "{:02d}.png") -> dict[str, bytes]:
    return {name.format(i): encoded(noise(i)) for i in range(count)}


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, data in files.items():
            opened.writestr(name, data)
    return path


def tar_bytes(files: Mapping[str, bytes | tarfile.TarInfo], tar_format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of plain files, and of whatever else comes as a header."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as opened:
        for name, data in files.items():
            if isinstance(data, tarfile.TarInfo):
                opened.addfile(data)
            else:
                header = tarfile.TarInfo(name)
                header.size = len(data)
                opened.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    path.write_bytes(tar_bytes(files))
    return path


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    header = tarfile.TarInfo(name)
    header.type, header.linkname = kind, target
    return header


def small(**changes: Any) -> PrepareSettings:
    return PrepareSettings.model_validate({"resolution": 16, "shard_size": 5} | changes)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
