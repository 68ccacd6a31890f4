"""The error of content transfer and probes of codes, on a model whose answers are known."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipelines.dataset import Dataset
from data_pipelines.images.dataset import ImageSettings
from sivae_dist.config.run_settings import load_config
from sivae_dist.evaluation.metrics import METRICS, Found, Trained
from sivae_dist.evaluation.metrics.translation import content_transfer, probes
from sivae_dist.evaluation.metrics.translation.content_transfer import draw_pairs
from sivae_dist.evaluation.metrics.translation.probes import accuracy
from sivae_dist.evaluation.settings import EvaluationSettings
from sivae_dist.perceptual.vgg import VggDistance
from sivae_dist.perceptual.weights import random_weights
from sivae_dist.use.pretrained import Pretrained
from tests.helpers import CPU, labelled_set, random_set
from tests.painted import CONTENTS, TEST, TRAIN, painted, reader

OF_TRANSLATION = ["content_transfer", "content_transfer_vgg_random", "class_from_content", "content_from_class"]


@pytest.fixture(scope="module", params=[True, False], ids=["named", "unnamed"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return opened(painted(tmp_path_factory.mktemp("painted") / "set", named=request.param))


def opened(path: Path) -> Dataset:
    return ImageSettings(path=str(path)).open(0, CPU)


def found(data: Dataset, model: Pretrained) -> Found:
    return Found({}, None, Trained(model, data, 0))


def test_pairs(data: Dataset) -> None:
    pairs = draw_pairs(data, 300, 0)
    assert pairs.named == (data.contents() is not None)
    grey = {int(n): tuple(data.samples(32, [n]).x[0, 0, 0, [0, -1]].tolist()) for n in range(data.train + data.test)}
    of_class, of_content, truth = ([grey[int(n)] for n in numbers] for numbers in pairs[:3])
    assert truth == [(a[0], b[1]) for a, b in zip(of_class, of_content, strict=True)]
    assert min(map(min, pairs[:3])) >= data.train == TRAIN * CONTENTS
    if pairs.named:
        assert all(a[0] != b[0] and a[1] != b[1] for a, b in zip(of_class, of_content, strict=True))
        assert len(set(zip(of_class, of_content, strict=True))) > 100  # of 3 * 2 * 5 * 4
    else:
        assert (pairs.of_class != pairs.of_content).all() and (pairs.truth == pairs.of_content).all()
    again, other = draw_pairs(data, 300, 0), draw_pairs(data, 300, 1)
    assert (again.of_class == pairs.of_class).all() and not (other.of_class == pairs.of_class).all()


def test_the_error_of_content_transfer(data: Dataset) -> None:
    """None of a model that reads and paints without one; of images that no model made, that of what differs."""
    metric, of = METRICS["content_transfer"](), found(data, reader())
    assert metric.value(of) < 1e-10
    pairs, details = draw_pairs(data, 1000, 0), metric.details(of)
    left, right = (data.samples(32, range(data.train + data.test)).x[:, 0, 0, place] / 2 for place in (0, -1))
    assert ("of_content_image" in details) == pairs.named  # elsewhere it is the truth
    for key, numbers in (("of_class_image", pairs.of_class), ("of_content_image", pairs.of_content)):
        if key not in details:
            continue
        halves = [(grey[numbers] - grey[pairs.truth]).square().mean().item() for grey in (left, right)]
        assert details[key] == pytest.approx(sum(halves) / 2, rel=1e-6)
    assert details["pairs"] == 1000 and details["truth"] == ("contents" if pairs.named else "same class")
    if pairs.named:  # a content code with the class in it is of no use to another class
        assert metric.value(found(data, reader(entangled=True))) > 0.1


def test_the_perceptual_error_of_content_transfer(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same pairs, by the distance that reconstructions are measured by."""
    monkeypatch.setattr(content_transfer, "PAIRS", 20)
    metric, of = METRICS["content_transfer_vgg_random"](), found(data, reader())
    metric.prepare(torch.device("cpu"))
    assert metric.value(of) < 1e-4  # of features of the order of one
    pairs, details, plain = draw_pairs(data, 20, 0), metric.details(of), METRICS["content_transfer"]().details(of)
    assert list(details) == [*plain, "vgg_sha256"] and details["vgg_sha256"] == "random" and details["pairs"] == 20
    distance = VggDistance(random_weights())
    for key, numbers in [("of_class_image", pairs.of_class), ("of_content_image", pairs.of_content)][: 1 + pairs.named]:
        with torch.no_grad():
            expected = distance(*(data.samples(32, of_what).x for of_what in (numbers, pairs.truth))).mean().item()
        assert details[key] == pytest.approx(expected, rel=1e-5)
        assert details[key] != pytest.approx(plain[key], rel=0.1)
    if pairs.named:
        assert metric.value(found(data, reader(entangled=True))) > details["of_class_image"] / 10 > 0


def test_probes(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A content code with the class in it tells both; a clean code tells nothing of the other factor."""
    monkeypatch.setattr(probes, "EPOCHS", 600)  # there are ten images to learn from
    clean, mixed = (found(data, reader(entangled=entangled)) for entangled in (False, True))
    of_class = METRICS["class_from_content"]()
    details = of_class.details(clean)
    assert (details["kinds"], details["chance"], details["images"]) == (TRAIN, 1 / TRAIN, TRAIN * CONTENTS)
    assert details["from_own_code"] == 1 and of_class.value(mixed) == 1 and of_class.value(clean) < 0.6
    assert of_class.value(clean) == of_class.value(clean)
    if data.contents() is None:
        return
    of_content = METRICS["content_from_class"]()
    details = of_content.details(clean)
    assert (details["kinds"], details["chance"], details["images"]) == (CONTENTS, 1 / CONTENTS, TRAIN * CONTENTS)
    assert details["from_own_code"] > 0.8 and of_content.value(clean) < 0.6


def test_images_are_encoded_once_for_all_probes(tmp_path: Path) -> None:
    model, seen = reader(), []
    model.encoder.register_forward_pre_hook(lambda _m, args: seen.append(len(args[0])))
    of = found(opened(painted(tmp_path / "set")), model)
    for name in ("class_from_content", "content_from_class"):
        METRICS[name]().value(of)
        METRICS[name]().details(of)
    assert sum(seen) == TRAIN * CONTENTS


def test_accuracy_finds_what_there_is() -> None:
    generator = torch.Generator().manual_seed(0)
    known = torch.randint(5, (2000,), generator=generator)
    noise = torch.randn(2000, 8, generator=generator)
    assert accuracy(noise, known, 0) == pytest.approx(0.2, abs=0.04)
    told = noise.clone()
    told[:, 3] += 6 * (known - 2) ** 2  # of pairs of classes, and not by a plane
    assert accuracy(told, known, 0) == pytest.approx(0.6, abs=0.06)
    told[:, 5] += 8 * known
    assert accuracy(told, known, 0) > 0.97


def test_where_they_can_be_measured(tmp_path: Path) -> None:
    sets = {
        "named": painted(tmp_path / "named"),
        "unnamed": painted(tmp_path / "unnamed", named=False),
        "untested": labelled_set(tmp_path / "untested", resolution=32),
        "unlabelled": random_set(tmp_path / "unlabelled", resolution=32),
    }
    lacking = {name: [METRICS[metric].lacks(opened(path)) for metric in OF_TRANSLATION] for name, path in sets.items()}
    no_names = "images whose contents have names"
    assert lacking == {
        "named": [None] * 4,
        "unnamed": [None, None, None, no_names],
        "untested": ["labelled images with a test split"] * 2 + [None, no_names],
        "unlabelled": ["labelled images"] * 4,
    }
    usual = EvaluationSettings().chosen(opened(sets["named"]))
    assert not set(usual) & set(OF_TRANSLATION)
    with pytest.raises(ValueError, match="content_transfer is about codes of class and content, which this model does"):
        load_config("tiny", ["evaluation.metrics=[mse, content_transfer]"])


def test_one_class_and_one_content_make_no_pair(tmp_path: Path) -> None:
    data = opened(labelled_set(tmp_path / "set", resolution=32, test=1))
    with pytest.raises(ValueError, match="no two test images between which content can be transferred"):
        draw_pairs(data, 10, 0)
    assert data.test == 1 and np.array(data.contents() or []).size == 0
    assert TEST > 1
