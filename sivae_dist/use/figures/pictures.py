"""Sheets of what a model does. All follow from the model, sample numbers and a seed; layer noise is left out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from sivae_dist.use.figures.sheet import Sheet

if TYPE_CHECKING:
    from sivae_dist.use.pretrained import Pretrained, Space

T = TypeVar("T")

_BATCH = 64
_GROWTH_LEAST = 96
"""Wide enough for a number of images seen."""
_MOST_CLASSES = 32
"""Rows of a sheet of classes, unless they are named."""
_LONGEST = 24
"""Letters of a class's name."""
_ONE_LINE = 12
"""Letters of a name that stays in one line."""


def samples(
    model: "Pretrained",
    numbers: Sequence[int],
    seed: int = 0,
    *,
    truncation: Sequence[float] = (1.0,),
    columns: int = 8,
    classes: Sequence[int] = (),
) -> Sheet:
    """The samples with these numbers, `columns` in a row; or, with several truncations, a row for each sample and a
    column for each truncation (Pretrained.truncate), of one of the `classes` after the other.

    Where the model has classes and there is one truncation: a row for each of `classes`, or of the first ones, with
    these samples in its columns.
    """
    if model.class_names and len(truncation) == 1:
        return _rows_of_classes(model, numbers, seed, truncation[0], classes)
    z, labels = latents(model, numbers, seed), labels_of(model, numbers, classes)
    mean = model.mean_w(labels=labels) if any(psi != 1 for psi in truncation) else None
    shown = [list(model.draw(z, labels, truncation=psi, mean=mean, batch=_BATCH).cpu()) for psi in truncation]
    note = f"samples of seed {seed}"
    if len(truncation) > 1:
        return Sheet(
            list(zip(*shown, strict=True)),
            columns=[_psi(psi) for psi in truncation],
            rows=_named(model, numbers, labels),
            note=_note(model, note),
        )
    if truncation[0] != 1:
        note += f", {_psi(truncation[0])}"
    cells = _in_rows(shown[0], columns)
    names = _in_rows([str(number) for number in numbers], columns)
    if list(numbers) == list(range(numbers[0], numbers[0] + len(numbers))):
        return Sheet(cells, rows=[row[0] for row in names], note=_note(model, note))
    return Sheet(cells, captions=names, note=_note(model, note))


def _rows_of_classes(
    model: "Pretrained", numbers: Sequence[int], seed: int, psi: float, classes: Sequence[int]
) -> Sheet:
    shown, z = classes or range(len(model.class_names))[:_MOST_CLASSES], latents(model, numbers, seed)
    cells = [list(model.draw(z, label, truncation=psi, batch=_BATCH).cpu()) for label in shown]
    note = f"a class in each row, samples of seed {seed}" + (f", {_psi(psi)}" if psi != 1 else "")
    if not classes and len(shown) < len(model.class_names):
        note += f", the first {len(shown)} of {len(model.class_names)} classes"
    return Sheet(
        cells,
        columns=[str(number) for number in numbers],
        rows=[_short(model.class_names[label]) for label in shown],
        note=_note(model, note),
    )


def style_mixing(
    model: "Pretrained",
    coarse: Sequence[int],
    fine: Sequence[int],
    seed: int = 0,
    *,
    cutoff: int | None = None,
    truncation: float = 1.0,
    classes: Sequence[int] = (),
) -> Sheet:
    """The samples `coarse` in the first column and `fine` in the first row, and where they meet the image whose layers
    before `cutoff` have the style of the row and the others that of the column; by default half of the layers. Both
    are of one of the `classes` after the other.

    ValueError for a cutoff outside of the layers in use.
    """
    layers = model.decoder.layer_count(model.stage.resolution)
    cutoff = layers // 2 if cutoff is None else cutoff
    rows, columns = latents(model, coarse, seed), latents(model, fine, seed)
    labels = labels_of(model, [*coarse, *fine], classes)
    mixed = model.style_mix(rows, columns, cutoff, labels=labels, truncation=truncation)
    own = list(model.draw(torch.cat((rows, columns)), labels, truncation=truncation, batch=_BATCH).cpu())
    names = _named(model, [*coarse, *fine], labels)
    note = (
        f"rows: layers 1-{cutoff} ({_pixels(0, cutoff)}), columns: layers {cutoff + 1}-{layers} "
        f"({_pixels(cutoff, layers)}), samples of seed {seed}" + (f", {_psi(truncation)}" if truncation != 1 else "")
    )
    return Sheet(
        [[None, *own[len(coarse) :]], *([one, *row] for one, row in zip(own, mixed, strict=False))],
        columns=["", *(name.replace(" ", "\n", 1) for name in names[len(coarse) :])],
        rows=["", *names[: len(coarse)]],
        column_breaks=frozenset([1]),
        row_breaks=frozenset([1]),
        note=_note(model, note),
    )


def _pixels(first: int, stop: int) -> str:
    """The resolutions at which the layers first ... stop - 1 work, two at each."""
    low, high = (4 << layer // 2 for layer in (first, stop - 1))
    return f"{low} px" if low == high else f"{low}-{high} px"


def interpolation(
    model: "Pretrained",
    corners: Tensor,
    names: Sequence[str],
    real: Sequence[Tensor | None] = (None,) * 4,
    *,
    steps: int = 7,
    space: "Space" = "z",
    label: int | None = None,
) -> Sheet:
    """A square between four codes [4, latent], as figure 18 (Pretrained.interpolate), with their names at the corners:
    top left, top right, bottom left, bottom right. Images that were encoded stand beside theirs. `label`: the class of
    all, where the model has classes."""
    square = list(model.interpolate(corners, steps, space, labels=label))
    inner = [""] * (steps - 1)
    cells: list[list[Tensor | None]] = [list(row) for row in square]
    columns, below = [names[0], *inner, names[1]], [names[2], *inner, names[3]]
    breaks: frozenset[int] = frozenset()
    if any(image is not None for image in real):
        cells = [[None, *row, None] for row in cells]
        for image, row, column in zip(real, (0, 0, -1, -1), (0, -1, 0, -1), strict=True):
            cells[row][column] = image
        columns, below = (["", *texts, ""] for texts in (columns, below))
        for texts, (left, right) in ((columns, real[:2]), (below, real[2:])):
            texts[0], texts[-1] = ("real" if image is not None else "" for image in (left, right))
        breaks = frozenset([1, steps + 2])
    return Sheet(
        cells,
        columns=columns,
        captions=[*([[""]] * steps), below],
        column_breaks=breaks,
        note=_note(
            model,
            f"linear in {space}, {steps} steps" + ("" if label is None else f", all as {model.class_names[label]}"),
        ),
    )


def reconstructions(
    model: "Pretrained",
    real: Tensor,
    *,
    labels: Tensor | None = None,
    classes: Sequence[int] = (),
    columns: int = 4,
    origin: str = "",
) -> Sheet:
    """Pairs as in figures 13 and 17, `columns` in a row: left the real image of `real` [N, C, R, R], right its
    reconstruction. `labels` [N]: the images' own, where the model has classes. With `classes`, a row for each image,
    and beside its reconstruction its code decoded as each of them. `origin` says where the images are from."""
    own = model.reconstruct(real, labels=labels).cpu()
    origin = f", {origin}" if origin else ""
    if labels is not None and classes:
        changed = [model.reconstruct(real, labels=labels, classes=label).cpu() for label in classes]
        names = model.class_names
        return Sheet(
            list(zip(real.cpu(), own, *changed, strict=True)),
            columns=["real", "as itself", *(f"as {_short(names[label])}" for label in classes)],
            rows=[_short(names[int(label)]) for label in labels],
            column_breaks=frozenset([1, 2]),
            note=_note(model, f"reconstructions as themselves and as other classes{origin}"),
        )
    pairs = [image for pair in zip(real, own, strict=True) for image in pair]
    return Sheet(
        _in_rows(pairs, 2 * columns),
        column_breaks=frozenset(range(2, 2 * columns, 2)),
        note=_note(model, f"left: real, right: reconstruction{origin}"),
    )


def translated(
    model: "Pretrained",
    classes: Tensor,
    contents: Tensor,
    names: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Sheet:
    """Content transfer as in figures 19 and 20: the images of `classes` [M, C, R, R] in the first column, those of
    `contents` [N, C, R, R] in the first row, and where they meet the class of the one with the content of the other.
    `names`: of the rows, and of the columns."""
    transferred = model.translate(classes, contents).cpu()
    return Sheet(
        [[None, *contents.cpu()], *([one, *row] for one, row in zip(classes.cpu(), transferred, strict=True))],
        columns=["", *(_folded(_short(name)) for name in names[1])],
        rows=["", *map(_short, names[0])],
        column_breaks=frozenset([1]),
        row_breaks=frozenset([1]),
        note=_note(model, "class of the image on the left, content of the one above"),
    )


def growth(
    models: Sequence["Pretrained"], numbers: Sequence[int], seed: int = 0, *, classes: Sequence[int] = ()
) -> Sheet:
    """Samples, a row each, by a model as it grew (pretrained.load_growth), a column for each resolution; of one of the
    `classes` after the other."""
    last = models[-1]
    labels = labels_of(last, numbers, classes)
    drawn = [model.draw(latents(model, numbers, seed), labels, batch=_BATCH) for model in models]
    shown = [list(images.cpu()) for images in drawn]
    columns, cut_off = [], False
    for model in models:
        text = f"{model.stage.resolution} px\n{model.images:,} images"
        if model is not last and model.images == last.images:
            text, cut_off = f"{text}*", True
        columns.append(text if model.stage.blend is None else f"{text}\nblend {float(model.stage.blend):.2f}")
    note = f"samples of seed {seed}" + (", live weights" if last.live else "")
    if cut_off:
        note += "; * the last network cut off at this size, with the output layer it had when this was the highest"
    return Sheet(
        list(zip(*shown, strict=True)),
        columns=columns,
        rows=_named(last, numbers, labels),
        note=note,
        least=_GROWTH_LEAST,
    )


def latents(model: "Pretrained", numbers: Sequence[int], seed: int) -> Tensor:
    """z [N, latent] of the samples with these numbers."""
    return torch.cat([model.latents(number, 1, seed) for number in numbers])


def labels_of(model: "Pretrained", numbers: Sequence[int], classes: Sequence[int] = ()) -> Tensor | None:
    """Labels [N]: of the first sample the first of `classes`, and so on in turn; without them, all of the model's by
    the numbers of the samples. None when it has none."""
    if not classes:
        return model.labels(numbers)
    return model.labelled(len(numbers), [classes[place % len(classes)] for place in range(len(numbers))])


def _named(model: "Pretrained", numbers: Sequence[int], labels: Tensor | None) -> list[str]:
    """Numbers of samples, with the names of their classes behind them."""
    if labels is None:
        return [str(number) for number in numbers]
    names = model.class_names
    return [f"{number} {_short(names[label])}" for number, label in zip(numbers, labels.tolist(), strict=True)]


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1].rstrip()}…"


def _folded(name: str) -> str:
    """A long name in two lines, broken behind the hyphen, underscore or space nearest to its middle."""
    places = [place for place, letter in enumerate(name, 1) if letter in "-_ "]
    if len(name) <= _ONE_LINE or not places:
        return name
    middle = min(places, key=lambda place: abs(2 * place - len(name)))
    return f"{name[:middle].rstrip()}\n{name[middle:]}"


def _in_rows(things: Sequence[T], columns: int) -> list[Sequence[T]]:
    return [things[start : start + columns] for start in range(0, len(things), columns)]


def _psi(psi: float) -> str:
    return f"ψ = {psi:g}"


def _note(model: "Pretrained", text: str) -> str:
    stage = model.stage
    blend = "" if stage.blend is None else f", blend {float(stage.blend):.2f}"
    weights = ", live weights" if model.live else ""
    return f"{text}; {model.images:,} images seen, {stage.resolution} px{blend}{weights}"
