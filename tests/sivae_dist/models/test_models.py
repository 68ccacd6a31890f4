from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sivae_dist.checkpoint.state import fill_network, network_tensors
from sivae_dist.config.run_settings import validate
from sivae_dist.models import Cond, Mixing, Stage
from sivae_dist.models.layers import Blur, Conv2d, DownsampleConv2d, Linear, StyledLayer, UpsampleConv2d
from sivae_dist.models.stage import blend_real
from sivae_dist.models.style import StyleDecoder, StyleEncoder, StyleSettings
from sivae_dist.models.style.decoder import StyleMapping
from sivae_dist.objectives import SoftIntroSettings
from sivae_dist.step.randomness import draw
from sivae_dist.step.schedule import Schedule, ScheduleSettings
from sivae_dist.train.players import Players

VARIANTS = pytest.mark.parametrize("variant", ["paper", "official"])
STAGES = [(4, False), (8, False), (8, True), (16, False), (16, True)]


def at(resolution: int, blend: Tensor | None = None) -> Cond:
    return Cond(Stage(resolution, blend))


def small(**changes: Any) -> StyleSettings:
    values = {"resolution": 16, "latent": 8, "base_width": 4, "max_width": 8, "decoder_mapping": 2, "to_rgb_gain": 1.0}
    return StyleSettings.model_validate(values | changes)


def networks(**changes: Any) -> tuple[StyleEncoder, StyleDecoder]:
    """With a learned strength of the noise, which is zero at first."""
    encoder, decoder = small(**changes).build(0)
    torch.manual_seed(1)
    for name, parameter in decoder.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.normal_(parameter)
    return encoder, decoder


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Layers.


def correlate(x: Tensor, weight: Tensor) -> Tensor:
    """A 3x3 convolution spelt out: zeros beyond the borders, no flip of the kernel."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1))
    out = torch.zeros(x.shape[0], weight.shape[0], height, width, dtype=x.dtype)
    for dy in range(3):
        for dx in range(3):
            window = padded[:, :, dy : dy + height, dx : dx + width]
            out += torch.einsum("oi,bihw->bohw", weight[:, :, dy, dx], window)
    return out


@pytest.mark.parametrize("equalized", [True, False])
def test_upsampling_convolution(equalized: bool) -> None:
    layer = UpsampleConv2d(3, 5, equalized=equalized).double()
    x = randn(2, 3, 4, 6, dtype=torch.float64)
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(layer(x), correlate(doubled, layer.weight * layer.scale))
    assert layer.bias is None


@pytest.mark.parametrize("equalized", [True, False])
def test_downsampling_convolution(equalized: bool) -> None:
    layer = DownsampleConv2d(3, 5, equalized=equalized).double()
    x = randn(2, 3, 4, 6, dtype=torch.float64)
    full = correlate(x, layer.weight * layer.scale)
    means = full.unflatten(3, (3, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(layer(x), means)
    assert layer.bias is None


def test_blur_is_the_binomial_filter() -> None:
    x = randn(2, 3, 5, 6, dtype=torch.float64)
    binomial = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    kernel = torch.outer(binomial, binomial) / 16
    expected = correlate(x.flatten(0, 1)[:, None], kernel[None, None]).unflatten(0, (2, 3))[:, :, 0]
    torch.testing.assert_close(Blur()(x), expected)


@pytest.mark.parametrize("equalized", [True, False])
@pytest.mark.parametrize("lr_factor", [1.0, 0.1])
@pytest.mark.parametrize("gain", [1.0, 2**0.5])
def test_outputs_at_first_depend_on_gain_alone(equalized: bool, lr_factor: float, gain: float) -> None:
    torch.manual_seed(0)
    linear = Linear(256, 4096, gain=gain, equalized=equalized, lr_factor=lr_factor)
    assert linear(randn(64, 256, seed=3)).std().item() == pytest.approx(gain, rel=0.02)
    if lr_factor == 1.0:
        convolution = Conv2d(64, 256, 3, gain=gain, equalized=equalized)
        inside = convolution(randn(4, 64, 8, 8, seed=3))[:, :, 1:-1, 1:-1]
        assert inside.std().item() == pytest.approx(gain, rel=0.02)


@pytest.mark.parametrize("equalized", [True, False])
def test_lr_factor_slows_weight_and_bias(equalized: bool) -> None:
    """A step of 1 in what is stored moves what is applied by lr_factor, times He's std when equalised."""
    torch.manual_seed(0)
    fast, slow = (Linear(50, 3, gain=2.0, equalized=equalized, lr_factor=factor) for factor in (1.0, 0.25))
    x, ones = randn(4, 50), torch.ones(3)
    for layer, factor in ((fast, 1.0), (slow, 0.25)):
        before = layer(x).detach()
        with torch.no_grad():
            layer.weight += 1
        std = 2.0 / 50**0.5 if equalized else 1.0
        torch.testing.assert_close(layer(x) - before, (factor * std) * x.sum(1, keepdim=True) * ones)
        with torch.no_grad():
            layer.weight -= 1
            layer.bias += 1
        torch.testing.assert_close(layer(x) - before, factor * ones.expand(4, 3))
    # Stored weights of equalised layers are N(0, 1); slowed down they are larger by as much as they are scaled down.
    wide = Linear(100, 1000, equalized=True, lr_factor=0.25)
    assert wide.weight.std().item() == pytest.approx(4.0, rel=0.02)
    assert Linear(100, 1000, equalized=True).weight.std().item() == pytest.approx(1.0, rel=0.02)


# Size and construction.


@VARIANTS
def test_parameters_at_256(variant: str) -> None:
    """As many as the authors' networks have, counted there."""
    settings = StyleSettings.model_validate({"variant": variant})
    with torch.device("meta"):
        encoder, decoder = StyleEncoder(settings), StyleDecoder(settings)
    assert count(encoder.mapping) == 1_050_624
    assert count(decoder.mapping) == 2_101_248
    assert count(encoder) - count(encoder.mapping) == 26_789_952
    assert count(decoder) - count(decoder.mapping) == 23_984_981


@VARIANTS
def test_shapes_are_those_of_networks_with_values(variant: str) -> None:
    for shapes, built in zip(small(variant=variant).shapes(), small(variant=variant).build(0), strict=True):
        want = {name: (tensor.shape, tensor.dtype) for name, tensor in built.state_dict().items()}
        assert {name: (tensor.shape, tensor.dtype) for name, tensor in shapes.state_dict().items()} == want
        assert all(tensor.is_meta for tensor in shapes.state_dict().values())
        assert [p.requires_grad for p in shapes.parameters()] == [p.requires_grad for p in built.parameters()]


@VARIANTS
@pytest.mark.parametrize("changes", [{}, {"blur": False}, {"noise": False}, {"equalized": False}])
def test_a_checkpoint_has_all_that_the_networks_hold(variant: str, changes: dict[str, Any]) -> None:
    """As `saved_whole` says: what is not in it would be without a value in networks that are filled from there."""
    settings = small(variant=variant, **changes)
    assert settings.saved_whole
    built, blank = settings.build(0), settings.blank()
    for name, values, network in zip(("encoder", "decoder"), built, blank, strict=True):
        assert all(tensor.is_meta for tensor in everything(network))
        fill_network(name, network, network_tensors(name, values))
        assert [id(p) for p in network.parameters()] == [*dict.fromkeys(id(p) for p in network.parameters())]
        assert not any(tensor.is_meta for tensor in everything(network))
    stage, z = at(16), randn(2, 8)
    x = built[1](z, stage)
    assert torch.equal(blank[1](z, stage), x)
    assert all(torch.equal(a, b) for a, b in zip(blank[0](x, stage), built[0](x, stage), strict=True))


def everything(network: nn.Module) -> list[Tensor]:
    """All tensors that a network holds, wherever it has them."""
    found: list[Tensor] = []
    waiting: list[Any] = [vars(module) for module in network.modules()]
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, Tensor):
            found.append(thing)
        elif isinstance(thing, dict | list | tuple | set):
            waiting += thing.values() if isinstance(thing, dict) else thing
    return found


def test_a_decoder_behind_its_mapping_shares_all_its_layers() -> None:
    _, decoder = networks()
    behind = decoder.behind_mapping()
    own = {name: id(p) for name, p in decoder.named_parameters() if not name.startswith("mapping.")}
    assert {name: id(p) for name, p in behind.named_parameters()} == own
    z = randn(2, 8)
    assert torch.equal(behind(decoder.mapping(z, at(16)), at(16)), decoder(z, at(16)))
    assert isinstance(decoder.mapping, StyleMapping)


def test_widths() -> None:
    settings = StyleSettings()
    assert settings.resolutions == [4, 8, 16, 32, 64, 128, 256]
    assert [settings.width(r) for r in (2, *settings.resolutions)] == [512, 512, 512, 512, 512, 256, 128, 64]
    assert settings.dimensions == 196_608


@pytest.mark.parametrize("changes", [{"channels": 1}, {"resolution": 4}, {"blur": False}, {"noise": False}])
def test_other_sizes_run(changes: dict[str, Any]) -> None:
    settings = small(**changes)
    encoder, decoder = settings.build(0)
    for resolution in settings.resolutions:
        size = decoder.noise_size(resolution)
        image = decoder(randn(2, 8), at(resolution), randn(2, size) if size else None)
        assert image.shape == (2, settings.channels, resolution, resolution)
        mu, logvar = encoder(image, at(resolution))
        assert mu.shape == logvar.shape == (2, 8)
        assert all(torch.isfinite(t).all() for t in (image, mu, logvar))


def test_1024_runs() -> None:
    settings = StyleSettings(resolution=1024, base_width=16)
    with torch.device("meta"):
        encoder, decoder = StyleEncoder(settings), StyleDecoder(settings)
        image = decoder(torch.randn(1, 512), at(1024), torch.randn(1, decoder.noise_size(1024)))
        assert image.shape == (1, 3, 1024, 1024)
        assert encoder(image, at(1024))[0].shape == (1, 512)


@pytest.mark.parametrize("resolution", [0, 2, 12, 2048])
def test_resolutions_that_cannot_be(resolution: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        StyleSettings(resolution=resolution)


def test_build_follows_from_the_seed_alone() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first = small().build(5)
    assert torch.equal(torch.rand(3), expected)  # the global generator was left as it stood
    second = small().build(5)
    other = small().build(6)
    for a, b, c in zip(first, second, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
        assert not torch.equal(a.mapping.layers[0].weight, c.mapping.layers[0].weight)


class Normalized(StyleSettings):
    """Has running statistics, or constants like them, beside its layers."""

    constant: bool = False

    def networks(self) -> tuple[StyleEncoder, StyleDecoder]:
        encoder, decoder = super().networks()
        decoder.normalize = nn.BatchNorm1d(self.latent)
        decoder.constant_buffers = self.constant
        return encoder, decoder


def test_buffers_have_to_be_constants() -> None:
    values = small().model_dump()
    with pytest.raises(ValueError, match=r"^StyleDecoder has buffers \(normalize.running_mean, .* constant_buffers"):
        Normalized.model_validate(values).build(0)
    _, decoder = Normalized.model_validate(values | {"constant": True}).build(0)
    assert next(name for name, _ in decoder.named_buffers()) == "normalize.running_mean"


@pytest.mark.parametrize("network", [StyleEncoder, StyleDecoder])
def test_statistics_over_a_batch_need_a_size_of_it(monkeypatch: pytest.MonkeyPatch, network: type[nn.Module]) -> None:
    values = {"model": small().model_dump(), "data": {"path": "unused"}, "device": "cpu"}
    values |= {"objective": {"name": "vae"}, "schedule": {"images": 64, "batch": 8}}
    auto, given = (validate(values | {"engine": {"max_batch_per_rank": size}}, "tiny") for size in ("auto", 4))
    Players(auto, torch.device("cpu"))
    monkeypatch.setattr(network, "concatenates", False)
    Players(given, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"^model.name=style .* engine.max_batch_per_rank: give a number, not auto$"):
        Players(auto, torch.device("cpu"))


# What the variants are.


def test_official_decoder_sees_the_direction_of_z_only() -> None:
    z = randn(3, 8)
    for variant, same in (("official", True), ("paper", False)):
        _, decoder = networks(variant=variant)
        images = decoder(z, at(8)), decoder(3 * z, at(8))
        assert torch.allclose(*images, atol=1e-4) == same


def test_official_encoder_rectifies_more() -> None:
    slope = 0.2
    for variant in ("official", "paper"):
        encoder, _ = networks(variant=variant)
        seen: dict[str, Tensor] = {}
        encoder.from_rgb["8"].register_forward_hook(lambda _m, _i, out, seen=seen: seen.update(rgb=out))
        encoder.blocks["8"].register_forward_pre_hook(lambda _m, args, seen=seen: seen.update(features=args[0]))
        encoder.mapping.layers[-1].register_forward_hook(lambda _m, _i, out, seen=seen: seen.update(last=out))
        out = torch.cat(encoder(randn(3, 3, 8, 8), at(8)), dim=1)
        again = variant == "official"
        torch.testing.assert_close(seen["features"], F.leaky_relu(seen["rgb"], slope**2 if again else slope))
        torch.testing.assert_close(out, F.leaky_relu(seen["last"], slope) if again else seen["last"])


def test_tanh_bounds_the_image() -> None:
    settings = small(to_rgb_gain=5.0)
    _, linear = settings.build(0)
    _, bounded = settings.model_copy(update={"output": "tanh"}).build(0)
    for blend in (None, torch.tensor(0.3)):
        image = linear(randn(4, 8), at(16, blend))
        assert image.abs().max() > 1.5
        torch.testing.assert_close(bounded(randn(4, 8), at(16, blend)), torch.tanh(image))


# Transitions.


@VARIANTS
@pytest.mark.parametrize("output", ["linear", "tanh"])
@pytest.mark.parametrize("resolution", [8, 16])
def test_decoder_transition_begins_and_ends_exactly(variant: str, output: str, resolution: int) -> None:
    _, decoder = networks(variant=variant, output=output)
    z = randn(3, 8)
    noise = randn(3, decoder.noise_size(resolution), seed=1)
    below = decoder(z, at(resolution // 2), noise[:, : decoder.noise_size(resolution // 2)])
    begin = decoder(z, at(resolution, torch.tensor(0.0)), noise)
    assert torch.equal(begin, below.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    end = decoder(z, at(resolution), noise)
    assert torch.equal(decoder(z, at(resolution, torch.tensor(1.0)), noise), end)
    assert not torch.allclose(begin, end, atol=1e-2)
    if output == "linear":
        halfway = decoder(z, at(resolution, torch.tensor(0.25)), noise)
        torch.testing.assert_close(halfway, 0.75 * begin + 0.25 * end)


@VARIANTS
@pytest.mark.parametrize("resolution", [8, 16])
def test_encoder_transition_begins_and_ends_exactly(variant: str, resolution: int) -> None:
    encoder, _ = networks(variant=variant)
    x = randn(3, 3, resolution, resolution)
    half = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(3, 5))
    for begin, below in zip(
        encoder(x, at(resolution, torch.tensor(0.0))), encoder(half, at(resolution // 2)), strict=True
    ):
        torch.testing.assert_close(begin, below)
    # Exactly so for a network that takes the mean as the encoder does.
    below = encoder(F.avg_pool2d(x, 2), at(resolution // 2))
    assert all(map(torch.equal, encoder(x, at(resolution, torch.tensor(0.0))), below))
    end = encoder(x, at(resolution))
    assert all(map(torch.equal, encoder(x, at(resolution, torch.tensor(1.0))), end))
    assert not torch.allclose(below[0], end[0], atol=1e-2)


def test_encoder_transition_weighs_styles_and_features() -> None:
    encoder, _ = networks()
    x, blend = randn(2, 3, 16, 16), 0.3
    summed: list[Tensor] = []
    encoder.mapping.register_forward_pre_hook(lambda _m, args: summed.append(args[0]))
    encoder(x, at(16, torch.tensor(blend)))
    features, style = encoder.blocks["16"](F.leaky_relu(encoder.from_rgb["16"](x), 0.2))
    coarse = F.leaky_relu(encoder.from_rgb["8"](F.avg_pool2d(x, 2)), 0.2)
    features, style = blend * features + (1 - blend) * coarse, blend * style
    for resolution in ("8", "4"):
        features, more = encoder.blocks[resolution](features)
        style = style + more
    torch.testing.assert_close(summed[0], style)


def test_real_images_in_transition() -> None:
    x = randn(2, 3, 8, 8)
    half = F.avg_pool2d(x, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert blend_real(x, None) is x
    assert torch.equal(blend_real(x, torch.tensor(0.0)), half)
    assert torch.equal(blend_real(x, torch.tensor(1.0)), x)
    torch.testing.assert_close(blend_real(x, torch.tensor(0.25)), 0.25 * x + 0.75 * half)
    assert blend_real(x.double(), torch.tensor(0.25)).dtype == torch.float64


def gradients(network: nn.Module, out: Tensor) -> set[str]:
    """Names of the parameters that a loss on `out` reaches."""
    network.zero_grad(set_to_none=True)
    (out * randn(*out.shape, seed=9)).sum().backward()
    return {name for name, parameter in network.named_parameters() if parameter.grad is not None}


@VARIANTS
@pytest.mark.parametrize(("resolution", "blending"), STAGES)
def test_parts_in_use_are_those_with_a_gradient(variant: str, resolution: int, blending: bool) -> None:
    encoder, decoder = networks(variant=variant)
    cond = at(resolution, torch.tensor(0.5) if blending else None)
    image = decoder(randn(3, 8), cond, randn(3, decoder.noise_size(resolution)))
    codes = torch.cat(encoder(randn(3, 3, resolution, resolution), cond), dim=1)
    for network, out in ((decoder, image), (encoder, codes)):
        names = {parameter: name for name, parameter in network.named_parameters()}
        parts = network.parts_in_use(resolution, blending)
        listed = [names[parameter] for part in parts for parameter in part.parameters()]
        assert len(listed) == len(set(listed))
        assert set(listed) == gradients(network, out)
        if resolution < 16:
            assert len(listed) < len(names)


# Noise and style mixing.


def test_noise_size() -> None:
    _, decoder = networks()
    assert [decoder.noise_size(r) for r in (4, 8, 16)] == [2 * 16, 2 * (16 + 64), 2 * (16 + 64 + 256)]
    assert [decoder.layer_count(r) for r in (4, 8, 16)] == [2, 4, 6]
    _, silent = networks(noise=False)
    assert silent.noise_size(16) == 0 and silent.layer_count(16) == 6


@pytest.mark.parametrize("resolution", [4, 8])
def test_every_layer_takes_its_own_part_of_the_noise(resolution: int) -> None:
    """With one layer's strength alone, exactly the values of that layer's part move the image."""
    _, decoder = networks()
    decoder.double()
    layers = [module for module in decoder.modules() if isinstance(module, StyledLayer)]
    size = decoder.noise_size(resolution)
    sides = [side for side in (4, 8) if side <= resolution for _ in range(2)]
    noise = randn(1, size, dtype=torch.float64)
    perturbed = noise + torch.eye(size, dtype=torch.float64)  # a row for every value that is changed
    z = randn(1, 8, dtype=torch.float64)
    first = 0
    for chosen, side in enumerate(sides):
        for index, layer in enumerate(layers):
            assert layer.noise_strength is not None
            nn.init.constant_(layer.noise_strength, 0.7 if index == chosen else 0.0)
        with torch.no_grad():
            base = decoder(z, at(resolution), noise)
            moved = decoder(z.expand(size, -1), at(resolution), perturbed)
        changed = (moved - base).abs().amax(dim=(1, 2, 3)) > 1e-9
        expected = torch.zeros(size, dtype=torch.bool)
        expected[first : first + side * side] = True
        assert torch.equal(changed, expected)
        first += side * side
    assert first == size


def test_no_noise_is_zero_noise() -> None:
    _, decoder = networks()
    z, size = randn(3, 8), decoder.noise_size(16)
    silent = decoder(z, at(16))
    assert torch.equal(silent, decoder(z, at(16), torch.zeros(3, size)))
    assert not torch.allclose(silent, decoder(z, at(16), randn(3, size)), atol=1e-2)


def test_style_mixing_switches_each_sample_at_its_own_layer() -> None:
    _, decoder = networks()
    z, other, cutoff = randn(8, 8), randn(8, 8, seed=1), torch.arange(8)
    seen: list[Tensor] = []
    for module in decoder.modules():
        if isinstance(module, StyledLayer):
            module.register_forward_pre_hook(lambda _m, args: seen.append(args[1].detach()))
    mixed = decoder(z, at(16)._replace(mixing=Mixing(other, cutoff)))
    w, w_other = decoder.mapping(z, at(8)), decoder.mapping(other, at(8))
    assert len(seen) == decoder.layer_count(16) == 6
    for layer, styles in enumerate(seen):
        for sample in range(8):
            assert torch.equal(styles[sample], (w if layer < cutoff[sample] else w_other)[sample])
    plain, swapped = decoder(z, at(16)), decoder(other, at(16))
    assert torch.equal(mixed[6:], plain[6:])  # the crossover lies beyond the last layer
    assert torch.equal(mixed[0], swapped[0])
    assert not torch.allclose(mixed[3], plain[3], atol=1e-3) and not torch.allclose(mixed[3], swapped[3], atol=1e-3)


# Gradients.


@VARIANTS
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_images_have_finite_gradients(variant: str, amp: torch.dtype | None, value: float) -> None:
    """The standard deviation of a constant is zero, where a bare square root has no derivative."""
    encoder, _ = networks(variant=variant)
    for cond in (at(16), at(16, torch.tensor(0.5))):
        encoder.zero_grad(set_to_none=True)
        x = torch.full((2, 3, 16, 16), value, requires_grad=True)
        with torch.autocast("cpu", dtype=amp, enabled=amp is not None):
            mu, logvar = encoder(x, cond)
        assert mu.dtype == logvar.dtype == torch.float32
        (mu.square().sum() + logvar.exp().sum()).backward()
        found = [x.grad, *(p.grad for part in encoder.parts_in_use(16, cond.stage.blend is not None)
                           for p in part.parameters())]  # fmt: skip
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in found)


@VARIANTS
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
@pytest.mark.parametrize("noisy", [True, False])
def test_decoder_has_finite_gradients(variant: str, amp: torch.dtype | None, noisy: bool) -> None:
    """The learned constant has no variance at first either."""
    encoder, decoder = networks(variant=variant)
    z = randn(2, 8).requires_grad_()
    cond = at(16, torch.tensor(0.5))
    with torch.autocast("cpu", dtype=amp, enabled=amp is not None):
        image = decoder(z, cond, randn(2, decoder.noise_size(16)) if noisy else None)
        mu, _ = encoder(image, cond)
    assert image.dtype == torch.float32
    (image.square().sum() + mu.square().sum()).backward()
    for parameter in [z, *decoder.parameters(), *encoder.parameters()]:
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    assert z.grad is not None and z.grad.abs().max() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "stop_gradient"), [("paper", "none"), ("official", "reencoded")])
def test_training_runs_on_any_device(variant: str, stop_gradient: str) -> None:
    """Every segment of a schedule on the meta device: a tensor made on a fixed device would be refused there."""
    settings, device = small(variant=variant), torch.device("meta")
    with device:
        encoder, decoder = StyleEncoder(settings), StyleDecoder(settings)
    objective = SoftIntroSettings.model_validate(
        {"stop_gradient": stop_gradient, "gamma_r": 0.5, "style_mixing": 0.9, "warmup": 6}
    )
    schedule = Schedule(ScheduleSettings(images=12, batch=3), settings.resolutions, 100, objective.warmup)
    segments = set()
    for step in schedule.steps(0):
        segments.add(step.segment)
        resolution = step.segment.resolution
        players = objective.build(encoder, decoder, resolution, settings.dimensions, warming_up=step.segment.warming_up)
        x = torch.empty(step.batch, 3, resolution, resolution, device=device)
        blend = torch.full((), step.blend, device=device) if step.segment.blending else None
        draws = draw(0, step.position, step.batch, latent=settings.latent, noise_size=decoder.noise_size(resolution),
                     layers=decoder.layer_count(resolution), mixing=objective.style_mixing, device=device,
                     dtype=torch.float32)  # fmt: skip
        x = blend_real(x, blend)
        encoder.requires_grad_(True)
        decoder.requires_grad_(False)
        loss, terms, z, _ = players[0](x, at(resolution, blend), draws)
        loss.backward()
        encoder.requires_grad_(False)
        decoder.requires_grad_(True)
        decoder_loss, more, *_ = players[1](x, z, at(resolution, blend), draws)
        decoder_loss.backward()
        assert all(value.device == device and value.ndim == 0 for value in (terms | more).values())
        assert z.shape == (step.batch, settings.latent) and not z.requires_grad
        for network in (encoder, decoder):
            used = {p for part in network.parts_in_use(resolution, step.segment.blending) for p in part.parameters()}
            for parameter in network.parameters():
                assert (parameter.grad is not None) == (parameter in used)
            network.zero_grad(set_to_none=True)
    assert len(segments) == 6  # 4 px, 8 and 16 px each with and without transition, and the warm-up
