"""What TensorBoard shows of a run."""

import logging
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sivae_dist.run.jsonl import read_rows


def assert_no_step_twice(run: Path, all_events: bool = True) -> dict[str, list[str]]:
    """One point a row of metrics.jsonl, and nothing twice; returns the tags.

    `all_events` False: some may be missing, as after a full disk.
    """
    accumulator = _events(run / "tensorboard")
    rows = [row["images"] for row in read_rows(run / "metrics.jsonl")]
    tags: dict[str, list[str]] = accumulator.Tags()
    assert tags["images"], "TensorBoard has no pictures"
    steps = {tag: [event.step for event in accumulator.Scalars(tag)] for tag in tags["scalars"]}
    if all_events:
        assert steps["kl/real"] == rows, f"TensorBoard's steps differ from the rows: {steps['kl/real']}"
    for tag, seen in steps.items():
        if tag.startswith(("kl/", "reconstruction/", "schedule/")):
            assert set(seen) <= set(rows), f"TensorBoard has steps of {tag} without a row: {seen}"
    steps |= {tag: [event.step for event in accumulator.Images(tag)] for tag in tags["images"]}
    for tag, seen in steps.items():
        assert len(seen) == len(set(seen)), f"TensorBoard has steps of {tag} twice: {seen}"
    return tags


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The curves: value by step, by tag."""
    accumulator = _events(folder)
    return {
        tag: {event.step: event.value for event in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]
    }


def _events(folder: Path) -> EventAccumulator:
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it would tell of each start's purge
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    accumulator.Reload()
    return accumulator
