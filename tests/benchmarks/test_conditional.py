"""The benchmark of classes tells images of a class from others, and a model that draws one image from one that draws
many."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks import conditional
from benchmarks.conditional import Classifier, Images, Measured, accuracy, measure, table, train
from tests.helpers import begin, labelled_set, random_set, tiny_settings
from tests.helpers import train as train_run


def bars(count: int, seed: int) -> Images:
    """Noise with a bright left half, or a bright upper one, or neither."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 60, (count, 1, 8, 8), generator=generator)
    labels = torch.arange(count) % 3
    pixels[labels == 0, :, :, :4] += 150
    pixels[labels == 1, :, :4] += 150
    return Images(pixels.to(torch.uint8), labels)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return train(bars(600, 0), 3, epochs=3, width=8, seed=0)


def test_a_classifier_is_trained(classifier: Classifier) -> None:
    assert accuracy(classifier, bars(90, 1)) > 0.95
    again = train(bars(600, 0), 3, epochs=3, width=8, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(classifier.parameters(), again.parameters(), strict=True))
    untrained = train(bars(600, 0), 3, epochs=0, width=8, seed=0)
    assert accuracy(untrained, bars(90, 1)) < 0.7


@pytest.mark.parametrize("resolution", [4, 8, 32])
def test_of_any_resolution(resolution: int) -> None:
    network = Classifier(3, resolution, 5, 4)
    taken, features = network.look(torch.zeros(7, 3, resolution, resolution, dtype=torch.uint8))
    assert taken.shape == (7,) and features.shape == (7, 128)


@pytest.mark.parametrize(
    ("drawn", "share", "ratio"),
    [
        (lambda test, label: test.of(label, 30), (0.95, 1.0), (0.7, 1.4)),
        (lambda test, label: test.of((label + 1) % 3, 30), (0.0, 0.05), (0.5, 2.0)),
        (lambda test, label: test.pixels[:30], (0.3, 0.4), (1.5, math.inf)),
        (lambda test, label: test.of(label, 1).repeat(30, 1, 1, 1), (0.95, 1.0), (0.0, 1e-3)),
    ],
    ids=["right", "wrong", "any", "one"],
)  # fmt: skip
def test_what_is_measured(
    classifier: Classifier,
    drawn: Callable[[Images, int], Tensor],
    share: tuple[float, float],
    ratio: tuple[float, float],
) -> None:
    test, real = bars(90, 1), bars(90, 2)
    for label in range(3):
        found, beside = (measure(classifier, pixels, label) for pixels in (drawn(test, label), real.of(label, 30)))
        assert found.images == beside.images == 30
        assert share[0] <= found.share <= share[1]
        assert ratio[0] <= found.diversity / beside.diversity <= ratio[1]


def test_what_images_are_mistaken_for(classifier: Classifier) -> None:
    test = bars(90, 1)
    assert measure(classifier, test.of(1, 30), 0).mistaken == 1
    features = classifier.look(test.of(1, 2))[1].double()
    found = measure(classifier, test.of(1, 2), 1)
    assert found.mistaken is None and found.diversity == pytest.approx((features[0] - features[1]).norm().item())


def test_the_table() -> None:
    ours = [Measured(4, 0.75, 2.0, 1), Measured(4, 0.25, 3.0, 0)]
    theirs = [Measured(4, 1.0, 4.0, None), Measured(1, 1.0, math.nan, None)]
    rows = table(("ant", "bee"), ours, theirs)[2:]
    assert rows == [
        "| ant | 75.0% | 100.0% | 2.00 | 4.00 | 0.50 | bee |",
        "| bee | 25.0% | 100.0% | 3.00 | nan | nan | ant |",
        "| mean | 50.0% | 100.0% | 2.50 | 4.00 | 0.62 |  |",
    ]


@pytest.mark.slow
def test_as_it_is_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = labelled_set(tmp_path / "set", samples=36, test=12)
    train_run(begin(tmp_path / "run", tiny_settings(told, "model.conditional=true")))
    capsys.readouterr()
    out = tmp_path / "out.md"
    arguments = [str(tmp_path / "run"), "--data", str(told), "--samples", "4", "--epochs", "1", "--width", "4"]
    train_run(begin(tmp_path / "other", tiny_settings(told, "model.conditional=true", "schedule.images={4: 8, 8: 8}")))
    conditional.main([str(tmp_path / "other"), *arguments, "--out", str(out)])
    lines = out.read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == 2 * [
        "| class", "| ant", "| bee", "| cat", "| mean",
    ]  # fmt: skip
    for start in ("run at 48 images, 8 px, 4 samples of each class", "other at 16 images, 8 px, 4 samples"):
        assert any(line.startswith(start) for line in lines)
    assert sum("of the test split" in line for line in lines) == 1
    train_run(begin(tmp_path / "small", tiny_settings(told, "model.conditional=true", "schedule.images={4: 8, 8: 0}")))
    with pytest.raises(SystemExit):
        conditional.main([str(tmp_path / "small"), *arguments])
    assert "run has images of 8 px, and " in capsys.readouterr().err
    train_run(begin(tmp_path / "plain", tiny_settings(told)))
    bare = random_set(tmp_path / "bare", samples=8)
    for run, data, message in (
        ("plain", told, "is a model without classes"), ("run", bare, "has other classes than"),
        ("none", told, "is neither a run nor"), ("run", tmp_path / "no", "no"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            conditional.main([str(tmp_path / run), "--data", str(data)])
        assert message in capsys.readouterr().err
