"""One trace serves all batches: what is evaluated from it is what a trace of each batch counts."""

from collections import Counter
from pathlib import Path

import pytest

from sivae_dist.train import counts, memory
from sivae_dist.train.counts import trace_step
from sivae_dist.train.memory import estimate
from sivae_dist.train.sizes import Peak, at, polynomial, traced_batch
from tests.helpers import tiny_settings

RUN = tiny_settings(Path("none"), "engine.precision=bf16")


def direct(monkeypatch: pytest.MonkeyPatch, parts: int = 1) -> None:
    """From here on each batch, and each number of micro-batches, has a trace of its own."""
    for module in (counts, memory):
        trace = module._trace.__wrapped__
        monkeypatch.setattr(module, "traced_batch", lambda batch: batch)
        monkeypatch.setattr(module, "_trace", trace)
    if parts > 1:
        trace = counts._trace
        monkeypatch.setattr(counts, "_trace", lambda *key: trace(*key[:-1], parts))


@pytest.mark.slow
def test_any_batch_has_what_its_own_trace_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    step, memory_of_step = trace_step(RUN, 8, 3, blending=True), estimate(RUN, 8, True, 3, 2)
    direct(monkeypatch)
    assert trace_step(RUN, 8, 3, blending=True) == step
    assert estimate(RUN, 8, True, 3, 2) == memory_of_step


@pytest.mark.slow
def test_each_further_micro_batch_adds_what_the_second_does(monkeypatch: pytest.MonkeyPatch) -> None:
    found = trace_step(RUN, 4, 2, 3)
    direct(monkeypatch, parts=3)
    expected = trace_step(RUN, 4, 2, 2)
    assert found.work == expected.work and found.counts[:3] == expected.counts[:3]
    assert found.counts.peak == pytest.approx(expected.counts.peak, rel=0.01)  # of two: some latents less are kept


@pytest.mark.slow
def test_work_adds_up_to_the_counts() -> None:
    found = trace_step(RUN, 8, 3, 2, blending=True)
    assert sum(work.flops * times for work, times in found.work.items()) == found.counts.flops
    kinds = Counter[str]()
    for work, times in found.work.items():
        kinds[work.kind] += times
        assert (work.positions > 0) == (work.flops > 0), work
    # A convolution's two gradients are two pieces of work of one operation, all else is one.
    both = found.work.total() - found.counts.operations
    assert 0 < both <= min(kinds["convolution, input"], kinds["convolution, weight"]) + kinds["product"]
    backward = sum(work.flops * times for work, times in found.work.items() if work.backward)
    assert found.counts.flops / 3 < backward < found.counts.flops


def test_counts_are_polynomials_of_the_batch() -> None:
    n = traced_batch(2)
    assert [at(polynomial(7 * n + 0) + polynomial(5), batch) for batch in (1, 2, 100)] == [12, 19, 705]
    assert at(polynomial(3 * n * n), 4) == 48
    assert at(polynomial(n // 4 * 10), 8) == 20  # one for every group of four
    assert at(polynomial(0), 8) == 0 and traced_batch(1) == 1


def test_which_peak_is_the_highest_depends_on_the_batch() -> None:
    n, peak = traced_batch(2), Peak()
    for fixed, each in ((100, 1), (10, 20), (50, 1), (90, 2)):
        peak.note(polynomial(fixed) + polynomial(each * n))
    assert [peak.at(batch) for batch in (1, 3, 5, 10)] == [101, 103, 110, 210]
