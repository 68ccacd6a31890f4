"""The networks of figure 8b against the appendix, and what a model promises."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_pipelines.dataset import SAME_CLASS
from sivae_dist.checkpoint.state import fill_network, network_tensors
from sivae_dist.models import Cond, Stage
from sivae_dist.models.layers import forms
from sivae_dist.models.translation import TranslationDecoder, TranslationEncoder, TranslationSettings
from sivae_dist.objectives.elbo import divergence

COND = Cond(Stage(32))
SMALL = {
    "resolution": 32, "class_latent": 5, "content_latent": 3, "widths": [2, 3, 4, 6], "hidden_units": 7,
    "decoder_width": 8, "last_width": 4,
}  # fmt: skip


def small(**changes: Any) -> TranslationSettings:
    return TranslationSettings.model_validate(SMALL | changes)


def networks(**changes: Any) -> tuple[TranslationEncoder, TranslationDecoder]:
    """In float64, no parameter 0."""
    encoder, decoder = (network.double() for network in small(**changes).build(0))
    for number, parameter in enumerate((*encoder.parameters(), *decoder.parameters())):
        if parameter.dim() == 1:
            parameter.data = 0.3 * randn(*parameter.shape, seed=number)
    return encoder, decoder


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Appendix 9.3.


def test_parameters() -> None:
    """Convolutions of 64, 128, 256 and 256 maps and three layers; three layers and six convolutions, four with AdaIN.
    Latents of 256 and 128."""
    encoder, decoder = TranslationSettings().shapes()
    convolutions = 7 * 7 * 3 * 64 + 64 + 4 * 4 * 64 * 128 + 128 + 4 * 4 * 128 * 256 + 256 + 4 * 4 * 256 * 256 + 256
    hidden = 8 * 8 * 256 * 256 + 256 + 256 * 256 + 256
    assert count(encoder.class_encoder) == convolutions + hidden + 256 * 512 + 512
    assert count(encoder.content_encoder) == convolutions + hidden + 256 * 256 + 256
    assert count(encoder) == count(encoder.class_encoder) + count(encoder.content_encoder)
    assert count(decoder.entry) == 128 * 512 + 512 + 512 * 1024 + 1024 + 1024 * 4096 + 4096
    assert [count(block) for block in decoder.blocks.values()] == [3 * 3 * 256 * 256 + 256 + 256 * 512 + 512] * 4
    assert count(decoder.last) + count(decoder.to_rgb) == 5 * 5 * 256 * 64 + 64 + 7 * 7 * 64 * 3 + 3
    assert TranslationSettings().groups == {"class": 256, "content": 128} and TranslationSettings().latent == 384


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def code(encoder: nn.Module, x: Tensor) -> Tensor:
    for place, layer in enumerate(encoder.blocks.values()):
        x = F.conv2d(x, layer.weight, layer.bias, stride=2 if place else 1, padding=1 if place else 3)
        x = leaky(x)
    x = x.flatten(1)
    for layer in encoder.hidden:
        x = leaky(x @ layer.weight.T + layer.bias)
    return x @ encoder.posterior.weight.T + encoder.posterior.bias


@pytest.mark.parametrize("form", ["plain", "fused", "native"])
def test_networks_spelt_out(form: forms.Form) -> None:
    encoder, decoder = networks()
    x, other, z = randn(3, 3, 32, 32), randn(3, 3, 32, 32, seed=1), randn(3, 8, seed=2)
    of_class, of_content = code(encoder.class_encoder, other), code(encoder.content_encoder, x)
    y = z[:, 5:]
    for layer in decoder.entry:
        y = leaky(y @ layer.weight.T + layer.bias)
    y = y.reshape(3, 8, 2, 2)
    for block in decoder.blocks.values():
        y = F.conv2d(F.interpolate(y, scale_factor=2, mode="nearest"), block.up.weight, padding=1)
        y = leaky(y + block.layer.bias[:, None, None])
        scale, shift = (z[:, :5] @ block.layer.style.weight.T + block.layer.style.bias).chunk(2, 1)
        y = F.instance_norm(y, eps=1e-8) * (1 + scale)[:, :, None, None] + shift[:, :, None, None]
    y = leaky(F.conv2d(y, decoder.last.weight, decoder.last.bias, padding=2))
    image = torch.tanh(F.conv2d(y, decoder.to_rgb.weight, decoder.to_rgb.bias, padding=3))
    with forms.using(form):
        mu, logvar = encoder(x, COND._replace(extra={SAME_CLASS: other}))
        torch.testing.assert_close(torch.cat((mu[:, :5], logvar[:, :5]), 1), of_class)
        torch.testing.assert_close(torch.cat((mu[:, 5:], logvar[:, 5:]), 1), of_content)
        torch.testing.assert_close(decoder(z, COND), image)


def reached(loss: Tensor, network: nn.Module) -> set[str]:
    """Names of the parameters with a gradient other than 0."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {name for name, grad in zip(names, found, strict=True) if grad is not None and grad.abs().max() > 0}


@pytest.mark.parametrize("paired", [False, True])
def test_a_group_is_of_one_encoder_and_the_reconstruction_of_both(paired: bool) -> None:
    """9.3: "the KL terms update each encoder separately, the reconstruction term jointly updates both"."""
    encoder, decoder = networks()
    x, other = randn(2, 3, 32, 32), randn(2, 3, 32, 32, seed=1)
    mu, logvar = encoder(x, COND._replace(extra={SAME_CLASS: other}) if paired else COND)
    kl = divergence(mu, logvar, encoder.groups)
    names = {name for name, _ in encoder.named_parameters()}
    of = {group: {name for name in names if name.startswith(f"{group}_encoder.")} for group in ("class", "content")}
    assert of["class"] | of["content"] == names and not of["class"] & of["content"]
    assert {group: reached(kl.groups[group].sum(), encoder) for group in of} == of
    z = mu + torch.exp(0.5 * logvar) * randn(2, 8, seed=2)
    assert reached((decoder(z, COND) - x).square().sum(), encoder) == names


def test_the_class_encoder_alone_sees_the_other_image() -> None:
    encoder, _ = networks()
    x, other = randn(2, 3, 32, 32), randn(2, 3, 32, 32, seed=1).requires_grad_()
    mu, _ = encoder(x, COND._replace(extra={SAME_CLASS: other}))
    alone, _ = encoder(x, COND)
    assert torch.equal(mu[:, 5:], alone[:, 5:]) and not torch.equal(mu[:, :5], alone[:, :5])
    (grad,) = torch.autograd.grad(mu[:, 5:].sum(), other, allow_unused=True, retain_graph=True)
    assert grad is None or not grad.any()
    assert torch.autograd.grad(mu[:, :5].sum(), other)[0].any()
    assert small().inputs == (SAME_CLASS,) and small(class_from="itself").inputs == ()


def test_content_becomes_maps_and_the_class_their_statistics() -> None:
    """Without its styles' weights, the class code changes nothing."""
    _, decoder = networks()
    z, other = randn(2, 8), randn(2, 8, seed=1)
    mixed = torch.cat((other[:, :5], z[:, 5:]), 1)
    assert (decoder(z, COND) - decoder(mixed, COND)).abs().max() > 1e-3
    for block in decoder.blocks.values():
        nn.init.zeros_(block.layer.style.weight)
    assert torch.equal(decoder(z, COND), decoder(mixed, COND))
    assert (decoder(z, COND) - decoder(other, COND)).abs().max() > 1e-3


# What a model promises.


def test_a_checkpoint_has_all_that_the_networks_hold() -> None:
    built, blank = small().build(0), small().blank()
    for name, values, network in zip(("encoder", "decoder"), built, blank, strict=True):
        fill_network(name, network, network_tensors(name, values))
    x = built[1](randn(2, 8).float(), COND)
    assert torch.equal(blank[1](randn(2, 8).float(), COND), x)
    assert all(torch.equal(a, b) for a, b in zip(blank[0](x, COND), built[0](x, COND), strict=True))


def test_samples_are_independent() -> None:
    encoder, decoder = networks()
    z = randn(3, 8)
    x = decoder(z, COND)
    torch.testing.assert_close(x[1:2], decoder(z[1:2], COND))
    torch.testing.assert_close(encoder(x, COND)[0][1:2], encoder(x[1:2], COND)[0])


@pytest.mark.parametrize(("resolution", "channels", "output"), [(32, 1, "tanh"), (64, 3, "linear"), (128, 3, "tanh")])
def test_other_sizes_run_in_bf16(resolution: int, channels: int, output: str) -> None:
    settings = small(resolution=resolution, channels=channels, output=output)
    encoder, decoder = settings.build(0)
    with torch.autocast("cpu", torch.bfloat16):
        image = decoder(3 * torch.randn(2, 8), Cond(Stage(resolution)))
        codes = encoder(image, Cond(Stage(resolution)))
    assert image.shape == (2, channels, resolution, resolution)
    assert settings.bounded == (output == "tanh") and (image.abs().max() <= 1 or not settings.bounded)
    assert {t.dtype for t in (image, *codes)} == {torch.float32}
    sum(t.sum() for t in codes).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n in (encoder, decoder) for p in n.parameters())


def test_recomputed_activations_give_the_same_gradients() -> None:
    def gradients(recomputed: bool) -> list[Tensor]:
        encoder, decoder = networks()
        encoder.checkpoint_activations = decoder.checkpoint_activations = recomputed
        mu, _ = encoder(randn(2, 3, 32, 32), COND)
        decoder(mu, COND).square().sum().backward()
        return [p.grad for network in (encoder, decoder) for p in network.parameters() if p.grad is not None]

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_the_usual_networks_begin_with_moderate_values() -> None:
    encoder, decoder = TranslationSettings(output="linear").build(0)
    with torch.no_grad():
        image = decoder(torch.randn(4, 384), Cond(Stage(64)))
        mu, logvar = encoder(image, Cond(Stage(64)))
    for values in (image, mu, logvar):
        assert 0.1 < values.std() < 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 48}, "resolution 48 is not a power of two from 32 to 256"),
        ({"resolution": 16}, "resolution 16 is not a power of two from 32 to 256"),
        ({"widths": [4, 4, 4]}, "at least 4 items"),
        ({"decoder_width": 12}, "decoder_width 12 is not a multiple of 8"),
    ],
)
def test_sizes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)
