"""The one source of randomness: a stream of random numbers is a pure function of (seed, purpose, position).

Nothing is drawn from a generator that lives on, so that what stands at a position of the run depends neither on ranks,
workers and batch boundaries nor on what was drawn before, and a resumed run needs no generator state.
"""

import hashlib
from collections.abc import Iterator

import numpy as np


def key(seed: int, purpose: str) -> np.ndarray:
    """The 128 bit key, uint64 [2], of all streams of one purpose."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, np.uint64)


def stream(seed: int, purpose: str, position: int) -> np.random.Generator:
    """The generator for one position: counter-based, so that every position has 2^128 numbers of its own."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose), counter=[0, 0, position, 0]))


def streams(seed: int, purpose: str, first: int, count: int) -> Iterator[np.random.Generator]:
    """`stream` for each of the positions first ... first + count - 1, in a third of the time: it is one generator, so
    that each is of use only until the next one is taken."""
    bits = np.random.Philox(key=key(seed, purpose))
    generator, state = np.random.Generator(bits), bits.state
    for position in range(first, first + count):
        state["state"]["counter"] = np.array([0, 0, position, 0], np.uint64)
        bits.state = state
        yield generator


def seed_at(seed: int, purpose: str, position: int) -> int:
    """A 63 bit seed for a generator that is not numpy's, such as one on a GPU."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
