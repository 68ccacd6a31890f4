"""Whether the images of a class-conditional model are of the class that was asked for, and as diverse as real ones.

    python -m benchmarks.conditional RUN... --data SET [--samples 200] [--epochs 3] [--width 32] [--out FILE]

A RUN is a run or an exported model. A small network is trained to tell the classes of the real training images at the
resolution that the models have reached, and its accuracy on the test split is printed; it judges all runs. Of each
class a model's samples are rounded to pixels, and of those and of as many real ones (of the test split where there is
one) are printed the share that the network takes for that class, and the mean distance of two images of it in the
network's last features.

A network that errs now and then sees errors in real images too, whose row is what to compare with. Samples, network and
order of training follow from `--seed`; the CPU of a Fashion-MNIST at 32 px is busy for some minutes.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.report import report
from data_pipelines.dataset import Dataset
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.images.ranges import to_uint8
from sivae_dist import load_pretrained
from sivae_dist.use.pretrained import Pretrained

PACKAGES = ("torch",)
BATCH = 100
_READ = 1000
_FEATURES = 128


class Images(NamedTuple):
    """Some images [N, C, R, R], uint8, and their labels [N]."""

    pixels: Tensor
    labels: Tensor

    def of(self, label: int, count: int) -> Tensor:
        """The first `count` of a class, or all there are."""
        return self.pixels[self.labels == label][:count]


class Classifier(nn.Module):
    """Convolutions and poolings down to 4x4 pixels or less, then two fully connected layers."""

    def __init__(self, channels: int, resolution: int, classes: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        while resolution > 4 or not layers:
            outputs = width if not layers else min(2 * inputs, 4 * width)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            inputs, resolution = outputs, resolution // 2
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * resolution**2, _FEATURES), nn.ReLU())
        self.head = nn.Linear(_FEATURES, classes)

    def features(self, pixels: Tensor) -> Tensor:
        """uint8 [N, C, R, R] -> [N, 128]."""
        found: Tensor = self.body(pixels.float() / 127.5 - 1)
        return found

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 [N, C, R, R] -> logits [N, classes]."""
        logits: Tensor = self.head(self.features(pixels))
        return logits

    @torch.no_grad()
    def look(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The class that each image is taken for, [N], and its features, [N, 128]."""
        features = torch.cat([self.features(pixels[k : k + _READ]) for k in range(0, len(pixels), _READ)])
        return self.head(features).argmax(1), features


class Measured(NamedTuple):
    """What is found of the images of one class."""

    images: int
    share: float
    """Of those that are taken for that class."""
    diversity: float
    """Mean distance of two of them in the classifier's features; NaN for fewer than two."""
    mistaken: int | None
    """The class that most of the others are taken for."""


def read(data: Dataset, resolution: int, numbers: range) -> Images:
    """Images of a labelled set by their numbers; damaged ones are left out. ValueError without labels."""
    groups = (numbers[first : first + _READ] for first in range(0, len(numbers), _READ))
    found = [samples.without_damaged() for samples in data.read(resolution, groups)]
    labels = [samples.y for samples in found if samples.y is not None]
    if not found or len(labels) < len(found):
        raise ValueError(f"{data.where} has no labels")
    return Images(torch.cat([to_uint8(samples.x) for samples in found]), torch.cat(labels))


def train(images: Images, classes: int, epochs: int, width: int, seed: int) -> Classifier:
    """A classifier of these images, by Adam with a learning rate that falls to nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(images.pixels.shape[1], images.pixels.shape[-1], classes, width)
    adam = torch.optim.Adam(network.parameters(), lr=2e-3)
    steps = epochs * -(-len(images.labels) // BATCH)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(epochs):
        order = torch.randperm(len(images.labels), generator=generator)
        for first in range(0, len(order), BATCH):
            part = order[first : first + BATCH]
            loss = F.cross_entropy(network(images.pixels[part]), images.labels[part])
            adam.zero_grad()
            torch.autograd.backward(loss)
            adam.step()
            fall.step()
    return network.eval()


def accuracy(classifier: Classifier, images: Images) -> float:
    return (classifier.look(images.pixels)[0] == images.labels).double().mean().item()


def measure(classifier: Classifier, pixels: Tensor, label: int) -> Measured:
    """Images uint8 [N, C, R, R] that should be of the class `label`."""
    taken, features = classifier.look(pixels)
    others = taken[taken != label]
    return Measured(
        len(pixels),
        (taken == label).double().mean().item(),
        torch.pdist(features.double()).mean().item(),
        int(others.bincount().argmax()) if len(others) else None,
    )


def sampled(model: Pretrained, count: int, seed: int) -> Callable[[int], Tensor]:
    """By class, its first `count` samples as pixels."""
    return lambda label: to_uint8(model.sample(count, seed, classes=label).cpu())


def table(names: Sequence[str], generated: Sequence[Measured], real: Sequence[Measured]) -> list[str]:
    """Lines of Markdown: a row for each class, and the means over the classes."""
    lines = ["| class | of the class asked for | real ones | diversity | of real ones | ratio | most often taken for |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip

    def row(name: str, ours: Measured, theirs: Measured, taken: str) -> str:
        ratio = ours.diversity / theirs.diversity if theirs.diversity else float("nan")
        cells = (f"{ours.share:.1%}", f"{theirs.share:.1%}", f"{ours.diversity:.2f}", f"{theirs.diversity:.2f}")
        return f"| {name} | {' | '.join(cells)} | {ratio:.2f} | {taken} |"

    for name, ours, theirs in zip(names, generated, real, strict=True):
        lines.append(row(name, ours, theirs, "" if ours.mistaken is None else names[ours.mistaken]))
    return [*lines, row("mean", _means(generated), _means(real), "")]


def _means(side: Sequence[Measured]) -> Measured:
    return Measured(
        sum(m.images for m in side), _mean([m.share for m in side]), _mean([m.diversity for m in side]), None
    )


def _mean(values: Sequence[float]) -> float:
    known: NDArray[np.float64] = np.array(values)
    return float(known[~np.isnan(known)].mean()) if not np.isnan(known).all() else float("nan")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run, or an exported model")
    parser.add_argument("--data", required=True, help="the prepared data set, with labels")
    parser.add_argument("--checkpoint", default="latest", help="latest, best, or the images that it was saved after")
    parser.add_argument("--samples", type=int, default=200, help="of each class")
    parser.add_argument("--epochs", type=int, default=3, help="of the classifier")
    parser.add_argument("--width", type=int, default=32, help="feature maps of its first layer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="a file for the results")
    given = parser.parse_args(arguments)
    try:
        models = {run: load_pretrained(run, checkpoint=given.checkpoint) for run in given.runs}
        resolution = next(iter(models.values())).stage.resolution
        with ImageSettings(path=given.data).open(0, torch.device("cpu")) as data:
            for run, model in models.items():
                if not model.class_names:
                    raise ValueError(f"{run} is a model without classes")
                if data.spec.classes != model.class_names:
                    raise ValueError(f"{given.data} has other classes than {run}")
                if model.stage.resolution != resolution:
                    raise ValueError(
                        f"{run} has images of {model.stage.resolution} px, and {given.runs[0]} {resolution}"
                    )
            real = read(data, resolution, range(data.train))
            test = read(data, resolution, range(data.train, data.train + data.test)) if data.test else None
    except (ValueError, OSError) as error:
        parser.error(str(error))
    with report(given.out, "Classes of generated images", PACKAGES) as say:
        names = data.spec.classes
        classifier = train(real, len(names), given.epochs, given.width, given.seed)
        own = "no test split" if test is None else f"{accuracy(classifier, test):.2%} of the test split"
        say(f"classifier: {accuracy(classifier, real):.2%} of the training images are taken for what they are, {own}")
        held_out = test or real
        beside = [measure(classifier, held_out.of(label, given.samples), label) for label in range(len(names))]
        for run, model in models.items():
            say(f"\n{run.name} at {model.images:,} images, {resolution} px, {given.samples} samples of each class\n")
            draw = sampled(model, given.samples, given.seed)
            generated = [measure(classifier, draw(label), label) for label in range(len(names))]
            for line in table(names, generated, beside):
                say(line)


if __name__ == "__main__":
    main()
