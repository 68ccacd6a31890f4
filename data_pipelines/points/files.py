"""Points in files: a .npy of an array [N, D], or a .csv of one point in each line."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TABLES = (".csv", ".npy")
"""Endings of files of points, in small letters."""


def kind_of(path: Path) -> str:
    """The ending of a path, in small letters; of a file of points it is one of TABLES."""
    return path.suffix.lower()


def read_points(path: Path) -> NDArray[np.float32]:
    """The points [N, D] in a file. ValueError, in one line, for anything that is no table of finite numbers."""
    try:
        if kind_of(path) == ".npy":
            table = np.load(path, allow_pickle=False)
        elif kind_of(path) == ".csv":
            table = _read_csv(path)
        else:
            raise ValueError("points are read from .csv and .npy files")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: {str(error).splitlines()[0]}") from None
    if table.ndim != 2 or not len(table) or not table.shape[1] or table.dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold numbers [N, D], a row for each point, not {table.dtype} {table.shape}")
    points = table.astype(np.float32)
    if (wrong := np.flatnonzero(~np.isfinite(points).all(axis=1))).size:
        raise ValueError(f"{path}: point {wrong[0]} is not finite: {', '.join(map(str, table[wrong[0]]))}")
    return points


def _read_csv(path: Path) -> NDArray[np.float64]:
    """A first line that is not all numbers holds the names of the columns."""
    with path.open(encoding="utf-8-sig") as file:
        lines = file.read().splitlines()
    names = bool(lines) and not all(_is_number(cell) for cell in lines[0].split(","))
    rows = lines[names:]
    if not any(rows):
        raise ValueError("it holds no points")
    try:
        return np.loadtxt(rows, delimiter=",", ndmin=2)
    except ValueError as error:
        raise ValueError(f"not a table of numbers: {error}") from None


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def write_points(path: Path, points: NDArray[np.float32]) -> None:
    """Points [N, D], as `read_points` reads them; the ending is one of TABLES."""
    with path.open("wb") as file:
        if kind_of(path) == ".npy":
            np.save(file, points, allow_pickle=False)
        else:
            np.savetxt(file, points, fmt="%.9g", delimiter=",")


def digest_of(points: NDArray[np.float32]) -> str:
    return hashlib.sha256(str(points.shape).encode() + points.tobytes()).hexdigest()
