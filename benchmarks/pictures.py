"""Pictures that cost what photographs cost: smooth random fields of every size and a little noise.

JPEG of quality 95 at 256 px is 26 to 34 KB (4:2:0 to 4:4:4), PNG at 1024 px 1.3 MB, as those of FFHQ.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def picture(seed: int, side: int) -> NDArray[np.uint8]:
    """uint8 [side, side, 3], side a power of two."""
    generator = np.random.default_rng(seed)
    pixels = np.full((side, side, 3), 128, np.float32)
    size, amplitude = 4, 60.0
    while size <= side:
        grey = generator.standard_normal((size, size, 1), np.float32)
        colour = generator.standard_normal((size, size, 3), np.float32)
        field = (amplitude * (0.9 * grey + 0.35 * colour)).astype(np.float32)
        pixels += cv2.resize(field, (side, side), interpolation=cv2.INTER_CUBIC) if size < side else field
        size, amplitude = size * 2, amplitude / 2**0.8
    pixels += 1.3 * generator.standard_normal((side, side, 3), np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _write(folder: Path, side: int, number: int) -> None:
    cv2.setNumThreads(1)
    path = folder / f"{number:05d}.png"
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(cv2.imencode(".png", picture(number, side))[1].tobytes())
        temporary.replace(path)


def write_pictures(folder: Path, side: int, count: int) -> None:
    """PNG files 00000.png and so on; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(partial(_write, folder, side), range(count), chunksize=16):
            pass
