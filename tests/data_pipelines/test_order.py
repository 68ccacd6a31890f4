import numpy as np
import pytest

from data_pipelines.order import WINDOW, Order

SIZES = [5, 3, 4, 4, 1, 7]
TOTAL = sum(SIZES)
EVEN = [10] * 40


def order(sizes: list[int] = SIZES, seed: int = 0, flip: bool = True) -> Order:
    return Order(sizes, seed, flip)


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    epochs = [order().at(epoch * TOTAL, TOTAL)[0] for epoch in range(4)]
    for samples in epochs:
        assert samples.dtype == np.int64
        np.testing.assert_array_equal(np.sort(samples), np.arange(TOTAL))
    assert len({tuple(samples) for samples in epochs}) == 4


def test_seeds_differ() -> None:
    a, b = (order(seed=seed).at(0, TOTAL) for seed in (0, 1))
    assert not np.array_equal(a[0], b[0]) and not np.array_equal(a[1], b[1])


def test_ranges_over_the_end_of_an_epoch() -> None:
    whole = [np.concatenate(parts) for parts in zip(*(order().at(k * TOTAL, TOTAL) for k in range(4)), strict=True)]
    one = order()
    for position, count in [
        (0, 4 * TOTAL),
        (TOTAL - 1, 2),
        (TOTAL - 3, 2 * TOTAL + 5),
        (TOTAL, 1),
        (7, 0),
        (3 * TOTAL, 4),
    ]:
        for values, expected in zip(one.at(position, count), whole, strict=True) if count else ():
            np.testing.assert_array_equal(values, expected[position : position + count])


def test_far_positions_and_any_sequence_of_calls() -> None:
    one = order()
    for epoch in (1000, 0, 3, 1000, 2, 0):
        for values, expected in zip(one.at(epoch * TOTAL + 2, 9), order().at(epoch * TOTAL + 2, 9), strict=True):
            np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_slices_of_all_processes_are_the_batch(world_size: int) -> None:
    batch = 16
    orders = [order(EVEN) for _ in range(world_size)]
    for position in range(0, 1200, batch):
        share = batch // world_size
        slices = [orders[rank].at(position + rank * share, share) for rank in range(world_size)]
        for values, expected in zip(zip(*slices, strict=True), order(EVEN).at(position, batch), strict=True):
            np.testing.assert_array_equal(np.concatenate(values), expected)


@pytest.mark.parametrize("sizes", [EVEN, [1 + k % 7 for k in range(37)]])
def test_samples_are_shuffled_in_windows_of_shards(sizes: list[int]) -> None:
    """Shards come in windows of 16 chosen anew every epoch; a window holds whole shards, their samples mixed."""
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    windows = []
    for epoch in range(2):
        samples = order(sizes).at(epoch * len(shard_of), len(shard_of))[0]
        chosen = []
        while len(samples):
            count, shards = 0, set()
            # As many samples as it takes to meet 16 shards (or all that are left) and to have the whole of them.
            while len(shards) < min(WINDOW, len(set(shard_of[samples]))):
                shards.add(int(shard_of[samples[count]]))
                count += 1
            count = sum(sizes[shard] for shard in shards)
            window, samples = samples[:count], samples[count:]
            assert set(shard_of[window]) == shards
            assert (np.diff(shard_of[window]) != 0).mean() > 0.7  # neighbours are of different shards
            chosen.append(frozenset(shards))
        assert [len(shards) for shards in chosen] == [16] * (len(sizes) // 16) + [len(sizes) % 16]
        windows.append(chosen)
    assert windows[0] != windows[1]


def test_flips() -> None:
    one = order(EVEN)
    flips = one.at(0, 4000)[1]
    assert flips.dtype == np.bool_
    assert abs(flips.mean() - 0.5) < 0.03
    np.testing.assert_array_equal(order(EVEN).at(0, 4000)[1], flips)
    epochs = flips.reshape(10, 400)
    assert all(abs(np.corrcoef(epochs[k], epochs[k + 1])[0, 1]) < 0.2 for k in range(9))
    samples = one.at(0, 4000)[0]
    shown = np.array([flips[samples == sample].mean() for sample in range(400)])
    assert ((shown > 0.25) & (shown < 0.75)).mean() > 0.3  # a sample is flipped in some epochs and not in others
    assert shown.std() < 0.25


def test_without_flips_the_order_is_the_same() -> None:
    samples, flips = order(flip=False).at(0, 3 * TOTAL)
    assert not flips.any() and flips.dtype == np.bool_
    np.testing.assert_array_equal(samples, order(flip=True).at(0, 3 * TOTAL)[0])


def test_one_sample() -> None:
    samples, flips = order([1]).at(5, 6)
    assert samples.tolist() == [0] * 6 and len(flips) == 6


@pytest.mark.parametrize("sizes", [[], [3, 0, 2]])
def test_empty_shards_are_refused(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        Order(sizes, 0, True)
