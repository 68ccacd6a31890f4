import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data_pipelines.streams import stream
from sivae_dist.objectives import Draws
from sivae_dist.step.randomness import draw, fill_normal, normals

CPU = torch.device("cpu")


def some(first: int, count: int, seed: int = 3, **changes: Any) -> Draws:
    values = {"latent": 5, "noise_size": 7, "layers": 6, "mixing": 0.9, "device": CPU, "dtype": torch.float32}
    return draw(seed, first, count, **(values | changes))


def tensors(draws: Draws) -> list[Tensor]:
    assert draws.noise is not None and draws.mixing is not None
    return [draws.z, draws.eps, draws.noise, draws.mixing.z, draws.mixing.cutoff]


@pytest.mark.parametrize("borders", [[0, 32], [0, 1, 2, 31, 32], [0, 16, 32], [0, 8, 16, 24, 32], [0, 5, 30, 32]])
def test_a_range_is_the_concatenation_of_its_parts(borders: list[int]) -> None:
    """So every world size and every division into micro-batches sees the same."""
    first = 1000
    whole = tensors(some(first, 32))
    parts = [tensors(some(first + a, b - a)) for a, b in pairwise(borders)]
    for expected, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert torch.equal(torch.cat(pieces), expected)


def test_shapes() -> None:
    z, eps, noise, mixed, cutoff = tensors(some(0, 4))
    assert z.shape == mixed.shape == (4, 5) and eps.shape == (4, 3, 5) and noise.shape == (4, 4, 7)
    assert cutoff.shape == (4,) and cutoff.dtype == torch.int64
    plain = some(0, 4, noise_size=0, mixing=0.0)
    assert plain.noise is None and plain.mixing is None
    assert torch.equal(plain.z, z)
    double = some(0, 4, dtype=torch.float64)
    assert all(t.dtype == torch.float64 for t in tensors(double)[:4])
    assert torch.equal(double.z, z.double())


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = some(0, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert all(map(torch.equal, tensors(first), tensors(some(0, 4))))


def test_everything_differs() -> None:
    """Between purposes, positions, seeds, and the parts of one draw."""
    rows = [normals(seed, purpose, position, 1, 6, CPU)[0]
            for seed in (0, 1) for purpose in ("latent", "noise") for position in (0, 1, 2**40)]  # fmt: skip
    drawn = some(0, 3)
    assert drawn.noise is not None and drawn.mixing is not None
    rows += [*drawn.z, *drawn.eps.flatten(0, 1), *drawn.mixing.z]
    rows += list(drawn.noise.flatten(0, 1)) + list(some(0, 3, seed=4).z)
    values = torch.cat(rows)
    assert len(values.unique()) == len(values)


def test_a_row_is_its_positions_stream() -> None:
    rows = normals(3, "noise", 10, 4, 9, CPU)
    for row in range(4):
        expected = stream(3, "noise", 10 + row).standard_normal(9, dtype=np.float32)
        np.testing.assert_array_equal(rows[row].numpy(), expected)
    assert torch.equal(normals(3, "noise", 10, 4, 5, CPU), rows[:, :5])
    assert normals(3, "noise", 10, 0, 5, CPU).shape == (0, 5)


def test_numbers_are_normal() -> None:
    values = normals(0, "latent", 0, 400, 512, CPU).double()
    count = values.numel()
    assert abs(values.mean()) < 5 / count**0.5
    assert abs(values.square().mean() - 1) < 5 * (2 / count) ** 0.5
    assert abs((values**4).mean() - 3) < 5 * (96 / count) ** 0.5
    assert (values.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.003)
    correlation = torch.corrcoef(values)
    assert (correlation - torch.eye(400)).abs().max() < 6 / 512**0.5  # of neighbouring positions
    drawn = some(0, 4000)
    parts = torch.cat((drawn.z[:, None], drawn.eps), dim=1).flatten(1).double()
    assert (torch.corrcoef(parts.T) - torch.eye(20)).abs().max() < 5 / 4000**0.5


@pytest.mark.parametrize(("layers", "mixing"), [(6, 0.9), (14, 0.3), (2, 0.9), (6, 1.0)])
def test_crossovers(layers: int, mixing: float) -> None:
    """A share of `mixing` has its crossover at 1 ... layers - 1, uniformly; the others have one style."""
    count = 3000
    cutoff = tensors(some(0, count, layers=layers, mixing=mixing, latent=1, noise_size=1))[4]
    seen = torch.bincount(cutoff, minlength=layers + 1)
    assert len(seen) == layers + 1 and seen[0] == 0
    expected = [count * mixing / (layers - 1)] * (layers - 1) + [count * (1 - mixing)]
    for found, mean in zip(seen[1:].tolist(), expected, strict=True):
        assert abs(found - mean) <= 4.5 * mean**0.5


def test_noise_on_the_meta_device() -> None:
    drawn = some(0, 4, device=torch.device("meta"))
    assert all(t.device.type == "meta" for t in tensors(drawn))
    assert [t.shape for t in tensors(drawn)] == [t.shape for t in tensors(some(0, 4))]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_a_gpu() -> None:
    cuda = torch.device("cuda")
    whole = tensors(some(100, 16, device=cuda))
    parts = [tensors(some(100 + k, 4, device=cuda)) for k in (0, 4, 8, 12)]
    for expected, pieces in zip(whole, zip(*parts, strict=True), strict=True):
        assert expected.device.type == "cuda" and torch.equal(torch.cat(pieces), expected)
    values = normals(0, "latent", 0, 200, 512, cuda).double()
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02


def test_a_cpu_draws_what_it_has_always_drawn() -> None:
    """Or runs that were begun before would not continue bit for bit."""
    found = hashlib.sha256()
    for tensor in tensors(some(1000, 6, seed=11, latent=16, noise_size=300, layers=8, mixing=0.7)):
        found.update(tensor.contiguous().numpy().tobytes())
    assert found.hexdigest() == "04498f6d69496ba0ae53b2939003536188dc2d4e901f4660ea12ff46addd5750"


def test_a_device_draws_in_pieces_that_every_gpu_divides_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece takes 128 blocks of 256 threads at most, which 32 multiprocessors hold at once."""
    sizes: list[int] = []
    whole = Tensor.normal_

    def counted(self: Tensor, *, generator: torch.Generator) -> Tensor:
        sizes.append(self.numel())
        return whole(self, generator=generator)

    monkeypatch.setattr(Tensor, "normal_", counted)
    row = torch.full((70_000,), torch.nan)
    fill_normal(row, torch.Generator().manual_seed(4))
    assert sizes == [32_768, 32_768, 70_000 - 2 * 32_768]
    assert row.isfinite().all() and len(row.unique()) > 60_000
