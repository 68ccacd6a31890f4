"""Networks that are told the class of an image, and that the others stay what they were."""

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae_dist.models import Cond, Mixing, Stage
from sivae_dist.models.conditional import ClassEmbedding, ConditionalSettings, one_hot
from sivae_dist.models.style import StyleDecoder, StyleEncoder, StyleSettings

VARIANTS = pytest.mark.parametrize("variant", ["paper", "official"])
NAMES = ("ant", "bee", "cat")


def small(**changes: Any) -> StyleSettings:
    values = {"resolution": 16, "latent": 8, "base_width": 4, "max_width": 8, "decoder_mapping": 2, "to_rgb_gain": 1.0}
    return StyleSettings.model_validate(values | {"encoder_mapping": 2} | changes)


def told(**changes: Any) -> tuple[StyleEncoder, StyleDecoder]:
    return small(conditional=True, class_names=NAMES, **changes).build(0)


def at(resolution: int, *labels: int, blend: float | None = None, mixing: Mixing | None = None) -> Cond:
    stage = Stage(resolution, None if blend is None else torch.tensor(blend))
    return Cond(stage, torch.tensor(labels) if labels else None, mixing)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Those without labels.


@pytest.mark.parametrize(
    ("variant", "equalized", "weights", "image", "mean"),
    [
        ("paper", True, 7693.9827325269, -562.2777100438252, 0.8322823196649551),
        ("paper", False, 2305.971953066237, -562.277712021023, 0.832283690571785),
        ("official", True, 7693.9827325269, -340.1315828897059, 3.8413178035989404),
        ("official", False, 2456.6297254694473, -340.1316324695945, 3.8413182999938726),
    ],
)
def test_networks_without_labels_are_what_they_were(
    variant: str, equalized: bool, weights: float, image: float, mean: float
) -> None:
    """Sums taken before there were labels; names and shapes by their digest."""
    encoder, decoder = small(variant=variant, equalized=equalized).build(0)
    generator = torch.Generator().manual_seed(0)
    z, other = (torch.randn(3, 8, generator=generator) for _ in range(2))
    noise = torch.randn(3, decoder.noise_size(16), generator=generator)
    x = decoder(z, at(16, mixing=Mixing(other, torch.tensor([1, 3, 6]))), noise)
    mu, _ = encoder(x, at(16, blend=0.3))
    names = [f"{name} {list(p.shape)}" for one in (encoder, decoder) for name, p in one.state_dict().items()]
    assert hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] == "316012339b47ebbc"
    total = sum(p.detach().double().abs().sum().item() for one in (encoder, decoder) for p in one.parameters())
    assert total == pytest.approx(weights, rel=1e-7)
    assert x.detach().double().sum().item() == pytest.approx(image, rel=1e-4)
    assert mu.detach().double().sum().item() == pytest.approx(mean, rel=1e-3)


# The labels.


def test_one_hot() -> None:
    rows = one_hot(at(4, 2, 0, 1), 3, torch.float64)
    assert rows.dtype == torch.float64 and rows.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    with pytest.raises(ValueError, match=r"^the network has 3 classes, but no labels came with its input$"):
        one_hot(at(4), 3, torch.float32)


@pytest.mark.parametrize("equalized", [True, False])
@pytest.mark.parametrize("lr_factor", [1.0, 0.1])
@pytest.mark.parametrize("classes", [1, 50])
def test_vectors_of_classes_are_as_latents_at_first(equalized: bool, lr_factor: float, classes: int) -> None:
    torch.manual_seed(0)
    embedding = ClassEmbedding(classes, 4000, equalized=equalized, lr_factor=lr_factor)
    vectors = embedding(randn(classes, 2), at(4, *range(classes)))
    assert vectors.shape == (classes, 4000)
    assert vectors.std().item() == pytest.approx(1, rel=0.05)
    torch.testing.assert_close(vectors, embedding.weight.T * embedding.scale)


@VARIANTS
def test_what_stands_in_the_mappings(variant: str) -> None:
    """[z, e] and [w, e]; the official variant normalises z alone."""
    encoder, decoder = told(variant=variant)
    z, labels = randn(3, 8), (2, 0, 2)

    def linear(layer: Any, x: Tensor) -> Tensor:
        return F.linear(x, layer.weight * layer.scale, layer.bias * layer.lr_factor)

    def beside(embedding: Any, x: Tensor) -> Tensor:
        rows = embedding.weight.T[list(labels)] * embedding.scale
        return torch.cat((x, rows), dim=1)

    inside = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8) if variant == "official" else z
    w = beside(decoder.mapping.embedding, inside)
    for layer in decoder.mapping.layers:
        w = F.leaky_relu(linear(layer, w), 0.2)
    torch.testing.assert_close(decoder.mapping(z, at(16, *labels)), w)

    first, last = encoder.mapping.layers
    out = linear(last, F.leaky_relu(linear(first, beside(encoder.mapping.embedding, z)), 0.2))
    out = F.leaky_relu(out, 0.2) if variant == "official" else out
    torch.testing.assert_close(torch.cat(encoder.mapping(z, at(16, *labels)), dim=1), out)


def test_labels_cost_a_vector_a_class_and_a_wider_first_layer() -> None:
    for with_labels, without in zip(told(), small().build(0), strict=True):
        got, had = ({n: p.shape for n, p in one.named_parameters()} for one in (with_labels, without))
        assert {n for n in got if n not in had} == {"mapping.embedding.weight"}
        assert {n for n in had if got[n] != had[n]} == {"mapping.layers.0.weight"}
        assert got["mapping.embedding.weight"] == (8, 3) and got["mapping.layers.0.weight"] == (8, 16)


def test_a_single_layer_is_first_and_last() -> None:
    encoder, decoder = told(encoder_mapping=1, decoder_mapping=1)
    assert encoder.mapping.layers[0].weight.shape == (16, 16) and decoder.mapping.layers[0].weight.shape == (8, 16)
    assert encoder(decoder(randn(2, 8), at(8, 0, 1)), at(8, 0, 1))[0].shape == (2, 8)


@VARIANTS
@pytest.mark.parametrize(("resolution", "blend"), [(4, None), (16, None), (16, 0.5)])
def test_a_label_changes_its_own_row(variant: str, resolution: int, blend: float | None) -> None:
    encoder, decoder = told(variant=variant)
    z, x = randn(4, 8), randn(4, 3, resolution, resolution, seed=1)
    one, other = (at(resolution, *labels, blend=blend) for labels in ((0, 1, 2, 0), (0, 2, 1, 0)))
    outputs = [(decoder(z, cond), *encoder(x, cond)) for cond in (one, other)]
    for a, b in zip(*outputs, strict=True):
        assert torch.equal(a[[0, 3]], b[[0, 3]])
        assert all((a[row] - b[row]).abs().max() > 1e-2 for row in (1, 2))


def test_both_styles_of_a_mixture_have_the_label() -> None:
    _, decoder = told()
    z, other = randn(2, 8), randn(2, 8, seed=1)
    low = decoder(z, at(16, 1, 2, mixing=Mixing(other, torch.tensor([0, 6]))))
    assert torch.equal(low[0], decoder(other, at(16, 1, 2))[0]) and torch.equal(low[1], decoder(z, at(16, 1, 2))[1])


def test_without_labels_nothing_is_computed() -> None:
    encoder, decoder = told()
    for network, x in ((encoder, randn(2, 3, 8, 8)), (decoder, randn(2, 8))):
        with pytest.raises(ValueError, match="has 3 classes, but no labels"):
            network(x, at(8))


def test_the_vectors_of_the_classes_at_hand_are_trained() -> None:
    encoder, decoder = told()
    x = decoder(randn(2, 8), at(16, 2, 2))
    (x.square().sum() + torch.cat(encoder(x.detach(), at(16, 2, 2))).square().sum()).backward()
    for network in (encoder, decoder):
        gradient = network.mapping.embedding.weight.grad
        assert gradient is not None and (gradient[:, :2] == 0).all() and (gradient[:, 2] != 0).all()


# The settings.


def test_classes_are_counted_where_they_matter() -> None:
    assert small().classes == 0 and small().named_classes() == () and small().is_fitted
    unfitted = small(conditional=True)
    assert unfitted.classes == 0 and not unfitted.is_fitted
    fitted = unfitted.fitted("set", NAMES)
    assert fitted.classes == 3 and fitted.named_classes() == NAMES and fitted.is_fitted
    assert fitted.fitted("set", NAMES) == fitted == small(conditional=True, class_names=NAMES)
    assert small().fitted("set", NAMES) == small() == small().fitted("set", ())
    assert isinstance(fitted, ConditionalSettings)


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"conditional": True}, (), "^set has no labels, which model.conditional=true needs: [^\n]*$"),
        (
            {"conditional": True, "class_names": NAMES},
            ("ant", "bee"),
            r"^set has 2 classes \(ant, bee\), but model.class_names has 3 classes \(ant, bee, cat\): [^\n]*$",
        ),
        ({"conditional": True, "class_names": NAMES}, ("bee", "ant", "cat"), r"^set has 3 classes \(bee, ant, cat\)"),
        ({"conditional": True, "class_names": NAMES}, tuple("abcdefg"), r"^set has 7 classes \(a, b, c, d, e, ...\)"),
    ],
)
def test_data_that_do_not_fit(changes: dict[str, Any], classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes).fitted("set", classes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": NAMES}, "class_names are of a model with conditional: true, but it is false"),
        ({"conditional": True, "class_names": ("ant", "bee", "ant")}, "class_names has 'ant' twice"),
    ],
)
def test_names_that_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)
