"""Points: what the four distributions are, and that a point depends on seed and position alone."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_pipelines.dataset import Request
from data_pipelines.points.dataset import EPOCH, HELD_OUT, PointSet, PointSettings, points_at
from data_pipelines.points.distributions import DISTRIBUTIONS
from data_pipelines.points.files import digest_of, read_points, write_points

CPU = torch.device("cpu")


def opened(seed: int = 0, **values: Any) -> PointSet:
    data = PointSettings.model_validate(values).open(seed, CPU)
    assert isinstance(data, PointSet)
    return data


def at(data: PointSet, position: int, count: int) -> NDArray[np.float32]:
    (batch,) = data.batches([Request(position, count, 1)])
    assert batch.position == position and batch.x.dtype == torch.float32
    return batch.x.numpy()


def drawn(name: str, count: int = 40_000) -> NDArray[np.float64]:
    return at(opened(distribution=name), 0, count).astype(np.float64)


# The distributions, from what the authors' code draws.


def test_eight_gaussians() -> None:
    points = drawn("8gaussians")
    centres = 2 / 1.414 * np.array([[math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)] for k in range(8)])
    apart = points[:, None] - centres
    nearest = np.linalg.norm(apart, axis=2).argmin(1)
    assert np.bincount(nearest) / len(points) == pytest.approx(np.full(8, 1 / 8), abs=0.01)
    residual = apart[np.arange(len(points)), nearest]
    assert residual.std(axis=0) == pytest.approx(np.full(2, 0.02 / 1.414), rel=0.03)
    assert np.abs(residual).max() < 6 * 0.02 / 1.414
    assert np.allclose(DISTRIBUTIONS["8gaussians"].centres, centres)


def test_spiral() -> None:
    """|x| is angle / 3 up to noise, the angle's square is uniform, and the arms are each other's mirror images."""
    points = drawn("spiral")
    radius = np.linalg.norm(points, axis=1)
    assert 3 < radius.max() < 4.2
    quantiles = np.quantile(radius, [0.25, 0.5, 0.75])
    assert quantiles == pytest.approx(np.sqrt([0.25, 0.5, 0.75]) * math.pi, rel=0.06)
    assert points.mean(axis=0) == pytest.approx([0, 0], abs=0.03)
    # At this angle one arm passes between the windings of the other.
    angle = 3 * math.pi * 0.9
    on_arm = np.array([-math.cos(angle) * angle + 0.25, math.sin(angle) * angle + 0.25]) / 3
    between = on_arm * (1 - math.pi / 2 / angle)
    near = [np.count_nonzero(np.linalg.norm(points - where, axis=1) < 0.12) for where in (on_arm, -on_arm, between)]
    assert min(near[:2]) > 4 * near[2]


def test_checkerboard() -> None:
    points = drawn("checkerboard")
    assert np.abs(points).max() < 4
    column, row = np.floor(points / 2).astype(int).T
    assert ((column + row) % 2 == 0).all()
    counts = np.unique((column + 2) * 4 + row + 2, return_counts=True)[1] / len(points)
    assert counts == pytest.approx(np.full(8, 1 / 8), abs=0.01)


def test_rings() -> None:
    points = drawn("rings")
    radius = np.linalg.norm(points, axis=1)
    nearest = np.round(radius / 0.75).clip(1, 4)
    assert np.bincount(nearest.astype(int))[1:] / len(points) == pytest.approx(np.full(4, 1 / 4), abs=0.01)
    assert (radius - 0.75 * nearest).std() == pytest.approx(0.08, rel=0.05)
    assert points.mean(axis=0) == pytest.approx([0, 0], abs=0.04)


# What a data set promises.


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_point_depends_on_seed_and_position_alone(name: str) -> None:
    whole = at(opened(distribution=name), 0, 3000)
    again = opened(distribution=name)
    assert np.array_equal(at(again, 1700, 900), whole[1700:2600])
    assert np.array_equal(np.concatenate([at(again, k, 100) for k in range(0, 3000, 100)]), whole)
    assert len(np.unique(whole, axis=0)) == 3000
    assert not (at(opened(1, distribution=name), 0, 3000) == whole).any()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("8gaussians", [(-0.01350, 1.40069), (-1.03432, 1.01114), (1.00306, 0.98907), (-0.99343, 0.97912)]),
        ("spiral", [(1.02145, 1.33418), (1.07280, 0.22612), (0.60354, 0.69356), (0.73364, -2.44075)]),
        ("checkerboard", [(-3.47288, -2.05855), (3.74892, -1.36293), (-2.80830, 1.97849), (-2.10256, 1.37424)]),
        ("rings", [(-1.04069, -2.11913), (-0.72201, -0.01789), (1.65326, 2.54850), (-2.06109, 0.89050)]),
    ],
)  # fmt: skip
def test_points_stay_what_they_are(name: str, expected: list[tuple[float, float]]) -> None:
    """Those at two positions, one for testing and one of another seed. A change must raise the `_VERSION` in the
    digest, so that no run goes on with other points than it began with."""
    data = opened(distribution=name)
    assert data.digest == f"{name}, version 1"
    found = [at(data, position, 1) for position in (511, 123_456_789)]
    found += [data.samples(1, [EPOCH + 700]).x.numpy(), at(opened(3, distribution=name), 512, 1)]
    assert np.concatenate(found) == pytest.approx(np.array(expected), abs=2e-5)


def test_points_go_on_behind_an_epoch() -> None:
    data = opened(distribution="rings")
    beyond = at(data, EPOCH, 2000)
    assert not (beyond == at(data, 0, 2000)).any()
    numbers, flips = data.order.at(EPOCH + 5, 3)
    assert numbers.tolist() == [EPOCH + 5, EPOCH + 6, EPOCH + 7] and not flips.any()


def test_samples_by_number() -> None:
    """Those for training are what a run sees first; those for testing are others, and the same for every seed."""
    data, other = opened(distribution="spiral"), opened(1, distribution="spiral")
    assert np.array_equal(data.samples(1, [5, 2000]).x.numpy(), at(data, 0, 2001)[[5, 2000]])
    assert (data.train, data.test) == (EPOCH, HELD_OUT)
    held_out = range(EPOCH, EPOCH + 1500)
    points = data.samples(1, held_out).x.numpy()
    assert np.array_equal(points, other.samples(1, held_out).x.numpy())
    assert not (points == at(data, EPOCH, 1500)).any() and not (points == at(data, 0, 1500)).any()


def test_digests_tell_distributions_apart() -> None:
    assert len({opened(distribution=name).digest for name in DISTRIBUTIONS}) == 4


# Files.


@pytest.mark.parametrize("header", ["", "x,y\n"])
def test_a_file_is_trained_on_in_epochs(tmp_path: Path, header: str) -> None:
    points = np.arange(40, dtype=np.float32).reshape(20, 2)
    path = tmp_path / "mine.csv"
    path.write_text(header + "\n".join(f"{a},{b}" for a, b in points))
    data = opened(path=str(path), test=0.25)
    assert (data.train, data.test, data.spec.shapes, data.scale) == (15, 5, {1: (2,)}, 19.5)
    epochs = at(data, 0, 30).reshape(2, 15, 2)
    held_out = data.samples(1, range(15, 20)).x.numpy()
    for epoch in epochs:
        assert np.array_equal(np.unique(np.concatenate((epoch, held_out)), axis=0), points)
    assert not np.array_equal(*epochs)
    assert np.array_equal(at(opened(path=str(path), test=0.25), 7, 12), epochs.reshape(-1, 2)[7:19])
    np.save(tmp_path / "mine.npy", points)
    assert opened(path=str(tmp_path / "mine.npy"), test=0.25).digest == data.digest
    assert opened(path=str(path), test=0.5).digest != data.digest


@pytest.mark.parametrize("content", ["3\n1\n2\n", "x\n3\n1\n2\n"])
def test_points_of_one_value(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    np.save(tmp_path / "a.npy", np.array([[3], [1], [2]]))
    data = opened(path=str(tmp_path / "a.csv"), test=0)
    assert (data.train, data.spec.shapes) == (3, {1: (1,)})
    assert sorted(at(data, 0, 3).tolist()) == [[1], [2], [3]]
    assert opened(path=str(tmp_path / "a.npy"), test=0).digest == data.digest


@pytest.mark.parametrize("ending", [".CSV", ".Npy"])
def test_endings_may_have_capitals(tmp_path: Path, ending: str) -> None:
    path, points = tmp_path / f"POINTS{ending}", np.float32([[1, 2], [3, 4]])
    write_points(path, points)
    assert np.array_equal(read_points(path), points)
    data = points_at(str(path))
    assert data is not None and data.digest == digest_of(points) + ", test 0.1"


def test_a_list_of_numbers_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3.0))
    np.save(tmp_path / "b.npy", np.empty((3, 0)))
    for name, shape in (("a.npy", r"\(3,\)"), ("b.npy", r"\(3, 0\)")):
        with pytest.raises(ValueError, match=rf"a row for each point, not float64 {shape}$"):
            opened(path=str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "1,2\n3,x\n", "not a table of numbers: could not convert string 'x'"),
        ("a.csv", "1,2\n3\n", "not a table of numbers"),
        ("a.csv", "x,y\n\n", "it holds no points"),
        ("a.csv", "1,2\n3,nan\n", "point 1 is not finite: 3.0, nan"),
        ("a.npy", "no array", "a.npy: "),
        ("a.txt", "1,2\n", "points are read from .csv and .npy files"),
    ],
)
def test_a_file_without_points_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        opened(path=str(tmp_path / name))
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_one_origin_is_needed() -> None:
    for values in ({}, {"distribution": "rings", "path": "a.csv"}):
        with pytest.raises(ValueError, match="give either distribution, one of 8gaussians, spiral"):
            PointSettings.model_validate(values)
