"""The residual networks against table 6 of the appendix, and what a model promises."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae_dist.checkpoint.state import fill_network, network_tensors
from sivae_dist.config.run_settings import RunSettings, validate
from sivae_dist.models import Cond, Stage
from sivae_dist.models.layers import forms
from sivae_dist.models.residual import ResidualDecoder, ResidualEncoder, ResidualSettings
from sivae_dist.models.residual.blocks import ResidualBlock
from sivae_dist.train.memory import estimate

VARIANTS = pytest.mark.parametrize("variant", ["paper", "official"])
NORMS = pytest.mark.parametrize("norm", ["batch", "group", "none"])
TABLE_6 = {"resolution": 1024, "latent": 512, "widths": [16, 32, 64, 128, 256, 512, 512, 512]}


def small(**changes: Any) -> ResidualSettings:
    return ResidualSettings.model_validate({"resolution": 16, "latent": 8, "widths": [4, 6]} | changes)


def at(resolution: int) -> Cond:
    return Cond(Stage(resolution))


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Table 6.


def test_parameters_of_table_6() -> None:
    """Row by row: kernels, then two numbers for each feature map that is normalised, then biases of layers without."""
    encoder, decoder = ResidualSettings.model_validate(TABLE_6).shapes()
    assert [count(encoder.blocks[row]) for row in ("1024", "512", "256", "128", "64", "32", "16", "8", "4")] == [
        5 * 5 * 3 * 16 + 2 * 16,
        1 * 1 * 16 * 32 + 3 * 3 * 16 * 32 + 3 * 3 * 32 * 32 + 2 * 2 * 32,
        1 * 1 * 32 * 64 + 3 * 3 * 32 * 64 + 3 * 3 * 64 * 64 + 2 * 2 * 64,
        1 * 1 * 64 * 128 + 3 * 3 * 64 * 128 + 3 * 3 * 128 * 128 + 2 * 2 * 128,
        1 * 1 * 128 * 256 + 3 * 3 * 128 * 256 + 3 * 3 * 256 * 256 + 2 * 2 * 256,
        1 * 1 * 256 * 512 + 3 * 3 * 256 * 512 + 3 * 3 * 512 * 512 + 2 * 2 * 512,
        3 * 3 * 512 * 512 + 3 * 3 * 512 * 512 + 2 * 2 * 512,
        3 * 3 * 512 * 512 + 3 * 3 * 512 * 512 + 2 * 2 * 512,
        3 * 3 * 512 * 512 + 3 * 3 * 512 * 512 + 2 * 2 * 512,
    ]
    assert count(encoder.posterior) == 8192 * 1024 + 1024
    assert count(decoder.entry) == 512 * 8192 + 8192
    assert [count(decoder.blocks[row]) for row in ("4", "8", "16", "32", "64", "128", "256", "512", "1024")] == [
        3 * 3 * 512 * 512 + 3 * 3 * 512 * 512 + 2 * 2 * 512,
        3 * 3 * 512 * 512 + 3 * 3 * 512 * 512 + 2 * 2 * 512,
        3 * 3 * 512 * 512 + 3 * 3 * 512 * 512 + 2 * 2 * 512,
        1 * 1 * 512 * 256 + 3 * 3 * 512 * 256 + 3 * 3 * 256 * 256 + 2 * 2 * 256,
        1 * 1 * 256 * 128 + 3 * 3 * 256 * 128 + 3 * 3 * 128 * 128 + 2 * 2 * 128,
        1 * 1 * 128 * 64 + 3 * 3 * 128 * 64 + 3 * 3 * 64 * 64 + 2 * 2 * 64,
        1 * 1 * 64 * 32 + 3 * 3 * 64 * 32 + 3 * 3 * 32 * 32 + 2 * 2 * 32,
        1 * 1 * 32 * 16 + 3 * 3 * 32 * 16 + 3 * 3 * 16 * 16 + 2 * 2 * 16,
        3 * 3 * 16 * 16 + 3 * 3 * 16 * 16 + 2 * 2 * 16,
    ]
    assert count(decoder.to_rgb) == 5 * 5 * 16 * 3 + 3
    # 1,232 + 14,464 + 57,600 + 229,888 + 918,528 + 3,672,064 + 3 * 4,720,640 + 8,389,632
    assert count(encoder) == 27_445_328
    # 4,202,496 + 3 * 4,720,640 + 1,901,568 + 475,648 + 119,040 + 29,824 + 7,488 + 4,672 + 1,203
    assert count(decoder) == 20_903_859


def shapes_of(network: nn.Module) -> dict[str, list[int]]:
    """Of what the blocks give, by the resolution that they stand at."""
    found: dict[str, list[int]] = {}
    for name, block in network.blocks.items():
        block.register_forward_hook(lambda _m, _i, out, name=name: found.update({name: list(out.shape[1:])}))
    return found


def test_shapes_of_table_6() -> None:
    settings = ResidualSettings.model_validate(TABLE_6)
    with torch.device("meta"):
        encoder, decoder = settings.networks()
        outwards, inwards = shapes_of(decoder), shapes_of(encoder)
        image = decoder(torch.randn(1, 512), at(1024))
        mu, logvar = encoder(image, at(1024))
    assert image.shape == (1, 3, 1024, 1024) and mu.shape == logvar.shape == (1, 512)
    widths = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}
    # What table 6 pools behind each row but the last one.
    assert inwards == {str(r): [width, max(r // 2, 4), max(r // 2, 4)] for r, width in reversed(widths.items())}
    widths = {4: 512, 8: 512, 16: 512, 32: 256, 64: 128, 128: 64, 256: 32, 512: 16, 1024: 16}
    assert outwards == {str(r): [width, r, r] for r, width in widths.items()}


# The layers, spelt out.


def norm(layer: nn.Module, x: Tensor) -> Tensor:
    return F.group_norm(x, layer.num_groups, layer.weight, layer.bias)


def block(layer: ResidualBlock, x: Tensor, variant: str) -> Tensor:
    skip = x if layer.skip is None else F.conv2d(x, layer.skip.weight)
    y = F.leaky_relu(norm(layer.norm1, F.conv2d(x, layer.conv1.weight, padding=1)), 0.2)
    y = F.conv2d(y, layer.conv2.weight, padding=1)
    y = norm(layer.norm2, y + skip) if variant == "paper" else norm(layer.norm2, y) + skip
    return F.leaky_relu(y, 0.2)


@VARIANTS
@pytest.mark.parametrize("form", ["plain", "fused", "native"])
def test_networks_spelt_out(variant: str, form: forms.Form) -> None:
    encoder, decoder = (network.double() for network in small(variant=variant, norm="group").build(0))
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        if parameter.dim() == 1:
            nn.init.normal_(parameter)
    x, z = randn(3, 3, 16, 16, dtype=torch.float64), randn(3, 8, dtype=torch.float64)
    y = F.conv2d(x, encoder.blocks["16"].conv.weight, padding=2)
    y = F.avg_pool2d(F.leaky_relu(norm(encoder.blocks["16"].norm, y), 0.2), 2)
    y = F.avg_pool2d(block(encoder.blocks["8"], y, variant), 2)
    y = block(encoder.blocks["4"], y, variant)
    codes = F.linear(y.reshape(3, 6 * 4 * 4), encoder.posterior.weight, encoder.posterior.bias)
    with forms.using(form):
        torch.testing.assert_close(torch.cat(encoder(x, at(16)), 1), codes)
    y = F.relu(F.linear(z, decoder.entry.weight, decoder.entry.bias)).reshape(3, 6, 4, 4)
    y = block(decoder.blocks["4"], y, variant)
    for resolution in ("8", "16"):
        y = block(decoder.blocks[resolution], y.repeat_interleave(2, 2).repeat_interleave(2, 3), variant)
    image = F.conv2d(y, decoder.to_rgb.weight, decoder.to_rgb.bias, padding=2)
    with forms.using(form):
        torch.testing.assert_close(decoder(z, at(16)), image)


def test_the_variants_differ() -> None:
    paper, official = (small(variant=variant, norm="group").build(0)[1] for variant in ("paper", "official"))
    images = paper(randn(2, 8), at(16)), official(randn(2, 8), at(16))
    assert (images[0] - images[1]).abs().max() > 0.1


# What a model promises.


@VARIANTS
@NORMS
def test_a_checkpoint_has_all_that_the_networks_hold(variant: str, norm: str) -> None:
    settings = small(variant=variant, norm=norm)
    built, blank = settings.build(0), settings.blank()
    for name, values, network in zip(("encoder", "decoder"), built, blank, strict=True):
        assert all(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
        fill_network(name, network, network_tensors(name, values))
    x = built[1](randn(2, 8), at(16))
    assert torch.equal(blank[1](randn(2, 8), at(16)), x)
    assert all(torch.equal(a, b) for a, b in zip(blank[0](x, at(16)), built[0](x, at(16)), strict=True))


@VARIANTS
@NORMS
def test_samples_are_independent(variant: str, norm: str) -> None:
    """Outside of training."""
    encoder, decoder = (network.double() for network in small(variant=variant, norm=norm).build(0))
    z = randn(3, 8, dtype=torch.float64)
    x = decoder(z, at(16))
    torch.testing.assert_close(x[1:2], decoder(z[1:2], at(16)))
    torch.testing.assert_close(encoder(x, at(16))[0][1:2], encoder(x[1:2], at(16))[0])


@NORMS
@pytest.mark.parametrize("resolution", [8, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_sizes_run_in_bf16(norm: str, resolution: int, channels: int) -> None:
    widths = [8] * (resolution.bit_length() - 3)
    settings = small(norm=norm, resolution=resolution, channels=channels, widths=widths, output="tanh")
    encoder, decoder = settings.build(0)
    with torch.autocast("cpu", torch.bfloat16):
        image = decoder(3 * randn(2, 8), at(resolution))
        codes = encoder(image, at(resolution))
    assert image.shape == (2, *settings.shape(resolution)) and image.abs().max() <= 1
    assert {t.dtype for t in (image, *codes)} == {torch.float32}
    sum(t.sum() for t in codes).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for n in (encoder, decoder) for p in n.parameters())


@NORMS
@VARIANTS
def test_networks_of_table_6_begin_with_moderate_values(variant: str, norm: str) -> None:
    """At 128 px with its depth: however many blocks are added up, exp(logvar) is far from the largest number."""
    widths = [16, 32, 64, 64, 64]
    settings = small(variant=variant, norm=norm, resolution=128, widths=widths, latent=64)
    encoder, decoder = settings.build(0)
    with torch.no_grad():
        image = decoder(randn(4, 64), at(128))
        mu, logvar = encoder(image, at(128))
    for values in (image, mu, logvar):
        assert 0.1 < values.std() < 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 24}, "resolution 24 is not a power of two from 8 to 1024"),
        ({"resolution": 2048}, "resolution 2048 is not a power of two from 8 to 1024"),
        ({"widths": [4]}, "widths has 1 numbers, but it takes 2 halvings from 16 px to 4"),
        ({"widths": [4, 0]}, "greater than or equal to 1"),
    ],
)
def test_sizes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


def test_types_of_networks() -> None:
    encoder, decoder = small().build(0)
    assert type(encoder) is ResidualEncoder and type(decoder) is ResidualDecoder
    assert decoder.noise_size(16) == decoder.layer_count(16) == 0 and not small().styled


# Labels.


def told(**changes: Any) -> tuple[ResidualEncoder, ResidualDecoder]:
    return small(conditional=True, class_names=("ant", "bee", "cat"), **changes).build(0)


def labelled(*labels: int) -> Cond:
    return Cond(Stage(16), torch.tensor(labels))


def test_labels_widen_the_fully_connected_layers_alone() -> None:
    for with_labels, without in zip(told(), small().build(0), strict=True):
        got, had = ({n: p.shape for n, p in one.named_parameters()} for one in (with_labels, without))
        assert got.keys() == had.keys()
        changed = {n: (list(had[n]), list(got[n])) for n in had if got[n] != had[n]}
        assert changed in (
            {"posterior.weight": ([16, 96], [16, 99])},
            {"entry.weight": ([96, 8], [96, 11])},
        )


@NORMS
def test_a_label_changes_its_own_row_by_its_column(norm: str) -> None:
    encoder, decoder = told(norm=norm)
    z, x = randn(3, 8), randn(3, 3, 16, 16, seed=1)
    one, other = labelled(0, 1, 2), labelled(0, 2, 2)
    images, codes = ([network(inputs, c) for c in (one, other)] for network, inputs in ((decoder, z), (encoder, x)))
    assert torch.equal(images[0][[0, 2]], images[1][[0, 2]])
    assert (images[0][1] - images[1][1]).abs().max() > 1e-2
    moved = torch.cat(codes[1], 1) - torch.cat(codes[0], 1)
    column = encoder.posterior.weight[:, 96:] * 8**0.5  # the length of z
    torch.testing.assert_close(moved, torch.stack((0 * column[:, 0], column[:, 2] - column[:, 1], 0 * column[:, 0])))
    for network, inputs in ((encoder, x), (decoder, z)):
        with pytest.raises(ValueError, match="has 3 classes, but no labels"):
            network(inputs, at(16))


# Memory.


def run(**engine: Any) -> RunSettings:
    values = {"data": {"path": "none"}, "device": "cpu", "schedule": {"images": 64, "batch": 1}, "engine": engine}
    values |= {"model": TABLE_6 | {"name": "residual"}, "objective": {"name": "soft_intro", "beta_neg": 256}}
    return validate(values, "table 6")


@pytest.mark.slow
def test_a_step_at_1024_px_takes_less_than_16_gib() -> None:
    saved, again = (estimate(run(precision="bf16", checkpoint_activations=v), 1024, False, 1, 1) for v in (False, True))
    assert again.peak < saved.peak < 16 * 2**30
    assert again.activations < 0.6 * saved.activations
    assert saved.flops < again.flops < 1.2 * saved.flops
