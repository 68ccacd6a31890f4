"""Writes a plan as YAML with a comment on every choice, and the commands to run next."""

from typing import Any

import yaml

from launch.configure.plan import Plan
from sivae_dist.process.durations import duration

_WIDTH = 120


def title(plan: Plan) -> list[str]:
    """The purpose of the configuration, and what to expect of it."""
    manifest, recipe = plan.manifest, plan.recipe
    return [
        f"{manifest.train:,} training images to {recipe.resolution} px on {plan.hardware.name}: {plan.total:,} images, "
        f"about {duration(plan.seconds)}",
        expectation(plan),
    ]


def expectation(plan: Plan) -> str:
    train, narrow = plan.manifest.train, plan.recipe.name == "narrow"
    parts = []
    if plan.factor < 0.25:
        parts.append(
            "The time is short for this resolution: expect blurry images; give more --hours or a smaller --resolution."
        )
    elif plan.recipe.resolution <= 16:
        parts.append("Expect only colours in the right places; a larger resolution needs more --hours.")
    elif narrow:
        parts.append("Expect soft outlines and colours, like the drawn faces and the emoji of docs/results.md.")
    else:
        parts.append(
            "Expect what docs/results.md and the paper show of the same recipe, in proportion to the images seen."
        )
    if train < 1_000:
        parts.append(
            f"With {train} images, expect good reconstructions, but samples that mix the training images: more images "
            "help more than more hours."
        )
    return " ".join(parts)


def commands(plan: Plan, path: str) -> list[str]:
    """The commands to run next."""
    n = plan.hardware.processes
    if plan.hardware.here or n <= 8:
        return [f"sivae train {path} --nproc {n} --dry-run", f"sivae train {path} --nproc {n}"]
    per_node = next(k for k in (8, 4, 2, 1) if n % k == 0)
    return [f"sivae submit {path} --nodes {n // per_node} --gpus-per-node {per_node}"]


def to_yaml(plan: Plan, path: str) -> str:
    """The file. It reads back as `plan.values()`."""
    lines = [f"# {line}" for text in title(plan) for line in _wrapped(text)]
    lines += [f"#   {command}" for command in commands(plan, path)]
    lines.append(
        "# Written by sivae configure from measured recipes (docs/training.md, docs/results.md); edit as needed."
    )
    comments = _comments(plan)
    for group, values in plan.values().items():
        if not isinstance(values, dict):
            lines.append(_line(group, values, comments.get(group), 0))
            continue
        lines.append(f"{group}:")
        lines += [_line(key, value, comments.get(f"{group}.{key}"), 2) for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, comment: str | None, indent: int) -> str:
    shown = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).strip().removesuffix("\n...")
    text = f"{' ' * indent}{key}: {shown}"
    if comment is None:
        return text
    beside = f"{text}{' ' * max(2, 28 - len(text))}# {comment}"
    return beside if len(beside) <= _WIDTH else f"{' ' * indent}# {comment}\n{text}"


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, _WIDTH - 2, break_on_hyphens=False)


def _comments(plan: Plan) -> dict[str, str]:
    from sivae_dist.config.run_settings import validate

    recipe, settings = plan.recipe, validate(plan.values(), "plan")
    remarks = settings.objective.remarks(recipe.resolution, settings.model.dimensions)
    paper = recipe.name == "paper"
    whose = "the paper's, as ffhq256" if paper else "as demo and fluent_emoji64, which were measured"
    spread = "as wide as ffhq256 at every resolution" if paper else "narrow: fast, and does not memorise a few images"
    passes = plan.total / plan.manifest.train
    return {
        "data.flip": plan.flip[1],
        "data.threads": "per process; more if data/wait_share grows",
        "model.resolution": f"the data set has up to {plan.manifest.resolution}",
        "model.base_width": spread,
        "objective.beta_rec": whose,
        **{f"objective.{key}": remark for key, remark in remarks.items()},
        "objective.warmup": "images as a plain VAE first"
        + (
            ", one pass of 30"
            if paper
            else ", deliberately most of the run; the last third of the last phase is introspective"
        ),
        "schedule.images": f"{passes:,.3g} passes over the training images in all",
        "schedule.batch": f"over {plan.hardware.processes} process(es)",
        "schedule.lr_encoder": whose,
        "engine.max_batch_per_rank": "the largest that fits is found at the start; the rest is accumulated"
        if plan.hardware.here
        else "the largest that fits by the traced estimate; the rest is accumulated",
        "engine.precision": "docs/gpus.md",
        "checkpoint.every": "about 50 in the run; the last two are kept",
        "evaluation.every": "of held-out images" + (" and samples" if plan.measures_features else ""),
    }
