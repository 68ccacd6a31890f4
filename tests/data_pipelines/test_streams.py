import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from data_pipelines.streams import key, seed_at, stream, streams

REPOSITORY = Path(__file__).resolve().parents[2]

PROGRAM = """
from data_pipelines.streams import seed_at, stream
generator = stream(3, "order", 7)
print(generator.random(4).tolist(), generator.permutation(9).tolist(), seed_at(3, "noise", 8))
"""


def test_a_stream_follows_from_seed_purpose_and_position() -> None:
    arguments = [
        (0, "order", 0),
        (0, "order", 1),
        (1, "order", 0),
        (0, "flip", 0),
        (0, "order", 2**40),
        (-1, "order", 0),
    ]
    draws = [stream(*each).random(8) for each in arguments]
    for each, values in zip(arguments, draws, strict=True):
        np.testing.assert_array_equal(stream(*each).random(8), values)
    assert len({tuple(values) for values in draws}) == len(arguments)
    assert len({seed_at(*each) for each in arguments}) == len(arguments)
    assert all(0 <= seed_at(*each) < 2**63 for each in arguments)


def test_streams_one_after_the_other() -> None:
    """Whatever was drawn from the one before, an odd number of 32 bits included."""
    for position, generator in enumerate(streams(3, "pairs", 5, 20), 5):
        alone = stream(3, "pairs", position)
        for draw in (lambda g: g.integers(7), lambda g: g.random(3), lambda g: g.standard_normal(2, np.float32)):
            np.testing.assert_array_equal(draw(generator), draw(alone))
        generator.integers(7, size=position)
    assert len({generator.random() for generator in streams(3, "pairs", 5, 20)}) == 20


def test_purpose_and_seed_are_not_run_together() -> None:
    assert not np.array_equal(key(1, "1/a"), key(11, "a"))
    assert seed_at(1, "a", 11) != seed_at(1, "a1", 1)


def test_streams_of_neighbours_do_not_overlap() -> None:
    """What one position draws is not what the next one draws a little later."""
    draws = np.concatenate([stream(0, "latent", position).bit_generator.random_raw(2000) for position in range(20)])
    assert len(np.unique(draws)) == len(draws)


def test_streams_are_the_same_in_another_process() -> None:
    generator = stream(3, "order", 7)
    here = f"{generator.random(4).tolist()} {generator.permutation(9).tolist()} {seed_at(3, 'noise', 8)}"
    for hash_seed in ("0", "1"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == here


def test_streams_stay_what_they_are() -> None:
    """A run that is resumed with a later version must go on with the same numbers."""
    assert key(0, "order").tolist() == [9461307748699094820, 13139176726496128748]
    assert stream(0, "order", 1).bit_generator.random_raw(2).tolist() == [12832955578090937621, 16495403731244623521]
    assert seed_at(0, "noise", 1) == 6545564728581758268
