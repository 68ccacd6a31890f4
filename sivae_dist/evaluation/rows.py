"""A value with everything that it depends on: a line of evaluation.jsonl."""

from typing import Any

Row = dict[str, Any]
"""`images` seen, `metric`, `value`, and where these come from."""


def tag(row: Row) -> str:
    """The name of a value in TensorBoard and in a checkpoint (checkpoint.best_metric)."""
    return f"evaluation/{row['metric']}"


def describe(row: Row) -> str:
    """A value in one line."""
    of = []
    if "samples" in row:
        of.append(f"{row['samples']:,} samples")
    if "reference" in row:
        of.append(f"{row['reference_samples']:,} images of {row['reference']}")
    if "test_points" in row:
        of.append(f"{row['test_points']:,} test points")
    what = [" against ".join(of)] if of else []
    if "split" in row:
        what.append(f"reconstructions of {row['count']:,} images of {row['split']}")
    if "level" in row:
        what.append(f"{row['level']} px")
    where = f"{row['weights']} weights, {row['images']:,} images seen"
    return f"{row['metric']} {row['value']:.6g} ({', '.join([*what, where])})"
