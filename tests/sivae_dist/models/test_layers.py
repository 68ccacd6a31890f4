"""The forms of the layers against each other, and the kernels in C++."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from launch.steps import Stepper
from sivae_dist.models.layers import (
    Blur,
    Conv2d,
    DownsampleConv2d,
    Linear,
    UpsampleConv2d,
    activate_and_normalize,
    forms,
)
from sivae_dist.models.layers.forms import Form
from sivae_dist.models.layers.native import library
from sivae_dist.models.layers.resampling import SMALLEST_STRIDED
from sivae_dist.models.layers.scaled import scale_and_cast, sharing
from tests.helpers import CPU, largest_difference, tiny_settings

ROOT = Path(__file__).parents[3]
FAST = pytest.mark.parametrize("form", ["fused", "native", "compiled"])


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def maps(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return random(*shape, seed=seed, dtype=dtype).contiguous(memory_format=torch.channels_last)


def with_gradients(form: Form, compute: Callable[..., Tensor | tuple[Tensor, ...]], *inputs: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of a random product with them for all inputs."""
    inputs = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
    with forms.using(form):
        found = compute(*inputs)
        outputs = (found,) if isinstance(found, Tensor) else found
        weights = [random(*out.shape, seed=7 + k) for k, out in enumerate(outputs)]
        gradients = torch.autograd.grad(
            sum((out.double() * weight).sum() for out, weight in zip(outputs, weights, strict=True)), inputs
        )
    return [*(out.detach() for out in outputs), *gradients]


def assert_close(got: list[Tensor], want: list[Tensor], relative: float) -> None:
    for one, other in zip(got, want, strict=True):
        assert (one - other).norm() <= relative * other.norm(), (one, other)


def styled(x: Tensor, strength: Tensor, bias: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    noise = random(x.shape[0], 1, *x.shape[2:], seed=9)
    return activate_and_normalize(x, noise=noise, strength=strength, bias=bias, scale=scale, offset=offset, eps=1e-8)[0]


def styled_inputs(batch: int, channels: int, pixels: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    x = maps(batch, channels, pixels, pixels, seed=1, dtype=dtype)
    exact = torch.promote_types(dtype, torch.float32)
    sizes = ((channels,), (channels,), (batch, channels), (batch, channels))
    return x, *(random(*size, seed=2 + k, dtype=exact) for k, size in enumerate(sizes))


# Channels that fill whole vectors and that do not, maps of one chunk and of several, and the last block's 2x2.
SIZES = pytest.mark.parametrize(("batch", "channels", "pixels"), [(3, 37, 9), (2, 64, 40), (1, 16, 2), (2, 5, 96)])


@FAST
@SIZES
def test_a_styled_layer_is_equal_in_all_forms(form: Form, batch: int, channels: int, pixels: int) -> None:
    inputs = styled_inputs(batch, channels, pixels)
    assert_close(with_gradients(form, styled, *inputs), with_gradients("plain", styled, *inputs), 1e-12)


@FAST
@SIZES
def test_statistics_are_equal_in_all_forms_and_may_be_used_alone(
    form: Form, batch: int, channels: int, pixels: int
) -> None:
    x, _, bias, *_ = styled_inputs(batch, channels, pixels)
    for used in ((0, 1, 2), (1, 2), (0,), (2,)):

        def extract(x: Tensor, bias: Tensor, used: tuple[int, ...] = used) -> tuple[Tensor, ...]:
            outputs = activate_and_normalize(x, bias=bias, eps=1e-5)
            return tuple(outputs[k] for k in used)

        assert_close(with_gradients(form, extract, x, bias), with_gradients("plain", extract, x, bias), 1e-12)


@FAST
@pytest.mark.parametrize("layer", [UpsampleConv2d, DownsampleConv2d])
@pytest.mark.parametrize("pixels", [4, 8, 16])
def test_resampling_is_equal_in_all_forms(form: Form, layer: type[Conv2d], pixels: int) -> None:
    """Below the table's resolutions and at them, with an odd number of channels."""
    module = layer(3, 5, equalized=True).double()  # type: ignore[call-arg]
    x = maps(2, 3, pixels, pixels, seed=1)

    def compute(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"weight": weight}, (x,))  # type: ignore[no-any-return]

    weight = module.weight.detach()
    assert_close(with_gradients(form, compute, x, weight), with_gradients("plain", compute, x, weight), 1e-12)


def test_resampling_computes_less_where_the_table_says_so() -> None:
    """16 products in the place of 36 for each pixel of the smaller side."""
    from torch.utils.flop_counter import FlopCounterMode

    for dtype, smallest in SMALLEST_STRIDED.items():
        for layer, twice in ((UpsampleConv2d, 1), (DownsampleConv2d, 2)):
            module = layer(3, 5, equalized=True).to(dtype)
            for pixels, products in ((smallest // 2, 36), (smallest, 16)):
                x = torch.ones(1, 3, twice * pixels, twice * pixels, dtype=dtype)
                with FlopCounterMode(display=False) as counter, forms.using("fused"):
                    module(x)
                assert counter.get_total_flops() == 2 * products * 3 * 5 * pixels**2


@FAST
@pytest.mark.parametrize("shape", [(2, 37, 5, 8), (1, 16, 1, 1), (1, 3, 2, 64)])
def test_the_blur_is_equal_in_all_forms(form: Form, shape: tuple[int, ...]) -> None:
    x = maps(*shape, seed=1)
    assert_close(with_gradients(form, Blur(), x), with_gradients("plain", Blur(), x), 1e-14)


@FAST
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 3e-6), (torch.bfloat16, 0.1)])
def test_lower_precision_stays_near_the_exact_result(form: Form, dtype: torch.dtype, relative: float) -> None:
    inputs = styled_inputs(2, 48, 64, dtype)
    exact = with_gradients("plain", styled, *(tensor.double() for tensor in inputs))
    got = with_gradients(form, styled, *inputs)
    assert got[0].dtype == dtype
    assert_close([tensor.double() for tensor in got], exact, relative)


@FAST
def test_a_large_mean_costs_no_precision(form: Form) -> None:
    """E[x^2] - E[x]^2 would have no correct digit here."""
    x = maps(1, 16, 64, 64, seed=1).float() + 3000
    _, mean, variance = with_gradients(form, lambda x: activate_and_normalize(x, eps=1e-5), x)[:3]
    exact_variance, exact_mean = torch.var_mean(x.double(), (2, 3), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), exact_variance, rtol=1e-3, atol=0)


@FAST
def test_what_is_not_finite_stays_so(form: Form) -> None:
    x = maps(1, 16, 8, 8, seed=1)
    x[0, 3, 2, 2] = torch.nan
    x[0, 4, 2, 2] = torch.inf
    with forms.using(form):
        out, mean, variance = activate_and_normalize(x, eps=1e-5)
        blurred = Blur()(x.to(torch.bfloat16))
    for tensor in (out.flatten(2).sum(2), mean, variance):
        assert (~tensor.isfinite()).nonzero()[:, 1].tolist() == [3, 4]
    assert int(blurred.isnan().sum()) == int(blurred.isinf().sum()) == 9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(with_gradients("native", styled, *styled_inputs(2, 40, 64, dtype)))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_maps_of_another_format_are_computed_by_torch() -> None:
    inputs = styled_inputs(2, 16, 8)
    x = inputs[0].contiguous()
    with forms.using("native"):
        assert not forms.is_native(x)
        assert forms.is_native(inputs[0])
    assert_close(with_gradients("native", styled, x, *inputs[1:]), with_gradients("plain", styled, *inputs), 1e-12)


@pytest.mark.parametrize("shape", [(37, 24, 3, 3), (70, 130), (5,)])
@pytest.mark.parametrize(("dtype", "to"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_weights_are_scaled_in_fp32_and_rounded_once(
    shape: tuple[int, ...], dtype: torch.dtype, to: torch.dtype
) -> None:
    x = random(*shape, seed=1, dtype=dtype)
    x.view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -1e-40])
    x = x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
    with forms.using("native"):
        got = scale_and_cast(x, 0.1, to)
    assert got.dtype == to and got.stride() == x.stride()
    assert torch.equal(got.nan_to_num(7), (x.float() * 0.1).to(to).nan_to_num(7))


# Whole networks.


@FAST
@pytest.mark.parametrize("objective", ["soft_intro", "intro, margin: 4", "vae"])
def test_a_step_is_equal_in_all_forms(form: Form, objective: str, tmp_path: Path) -> None:
    """The gradients of both updates, with blending, by Adam's moments."""
    both: tuple[Form, Form] = ("plain", form)
    ends: list[dict[str, Tensor]] = []
    for each in both:
        settings = tiny_settings(
            tmp_path, "engine.precision=fp64", "model.resolution=16", "schedule.images=8",
            f"objective={{name: {objective}}}",
        )  # fmt: skip
        with forms.using(each):
            stepper = Stepper(settings, CPU, 16, blending=True)
            # Of rate 0: Adam makes a whole step of a gradient that is rounding alone.
            stepper.step(stepper.images(3), stepper.draws(3), lr=0.0)
        ends.append({name: tensor for name, tensor in stepper.players.tensors().items() if "exp_avg" in name})
    assert len(ends[0]) > 100
    assert largest_difference(*ends) <= 1e-10


@pytest.mark.parametrize("value", ["true", "false"])
def test_all_maps_have_the_format_that_is_set(value: str, tmp_path: Path) -> None:
    """The decoder's too, which begin with its own constant."""
    stepper = Stepper(tiny_settings(tmp_path, f"engine.channels_last={value}"), CPU, 8)
    formats: list[tuple[bool, bool]] = []
    for network in stepper.players.networks:
        for module in network.modules():
            if isinstance(module, Conv2d) and module.padding:
                module.register_forward_pre_hook(
                    lambda _, inputs: formats.append(
                        (inputs[0].is_contiguous(), inputs[0].is_contiguous(memory_format=torch.channels_last))
                    )
                )
    stepper.step(stepper.images(3), stepper.draws(3))
    assert len(formats) > 20
    assert {*formats} == {(value == "false", value == "true")}


KERNELS = {"3x3": partial(Conv2d, kernel=3, bias=False), "up": UpsampleConv2d, "down": DownsampleConv2d}


@pytest.mark.parametrize("trained", [True, False], ids=["weight", "input"])
@pytest.mark.parametrize("layer", KERNELS)
def test_a_further_pass_copies_no_map_or_weight(layer: str, trained: bool) -> None:
    module = KERNELS[layer](32, 32, equalized=True).to(memory_format=torch.channels_last)
    x = maps(2, 32, 16, 16, seed=1, dtype=torch.float32).requires_grad_(not trained)
    module.requires_grad_(trained)
    weights: dict[Any, Tensor] = {}
    with forms.using("fused"), sharing(weights):
        module(x)  # which makes the weight that all passes compute with
        (weight,) = weights.values()
        with torch.profiler.profile() as profiled:
            y = module(x)
            torch.autograd.grad(y, weight if trained else x, torch.ones_like(y))
    copied = [event.name for event in profiled.events() if event.name == "aten::clone"]
    assert y.is_contiguous(memory_format=torch.channels_last) and copied == []


def test_shared_weights_are_computed_once_and_get_all_gradients() -> None:
    layer = Linear(4, 3, equalized=True, lr_factor=0.1).double()
    x, y = random(2, 4, seed=1), random(2, 4, seed=2)

    def gradient(passes: Callable[[], Tensor]) -> list[Tensor]:
        return list(torch.autograd.grad(passes(), list(layer.parameters())))

    def passes() -> Tensor:
        return layer(x).square().sum() + layer(y).pow(3).sum()

    apart = gradient(passes)
    weights: dict[Any, Tensor] = {}
    with sharing(weights):
        with torch.no_grad():
            layer(x)  # a first pass without gradients does not keep the others from theirs
        together = gradient(passes)
    assert len(weights) == 2  # weight and bias
    assert_close(together, apart, 1e-14)


# The compiler.


def run_without(tmp_path: Path, code: str, **environment: str) -> str:
    """Prints of a Python process with an empty cache of kernels."""
    variables = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


ASK = """
import torch
from sivae_dist.models.layers import Blur, forms
from sivae_dist.models.layers.native import library
print(forms.current(), library.why_not())
Blur()(torch.ones(1, 16, 4, 4).contiguous(memory_format=torch.channels_last))
"""


@pytest.mark.slow
def test_kernels_are_compiled_once(tmp_path: Path) -> None:
    assert run_without(tmp_path, ASK).strip() == "native"
    (made,) = (tmp_path / "sivae").iterdir()
    before = made.stat()
    assert run_without(tmp_path, ASK).strip() == "native"
    assert made.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.slow
def test_without_a_compiler_layers_use_torch(tmp_path: Path) -> None:
    said = run_without(tmp_path, ASK, PATH=str(tmp_path), CXX="")
    assert said.strip() == "fused there is no C++ compiler (g++ or clang++)"


@pytest.mark.slow
def test_a_compiler_that_fails_is_named(tmp_path: Path) -> None:
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\n[ $1 = --version ] || { echo broken as can be >&2; exit 3; }\n")
    compiler.chmod(0o755)
    said = run_without(tmp_path, ASK, CXX=str(compiler))
    assert said.startswith("fused ") and str(compiler) in said and "broken as can be" in said


def test_kernels_are_here() -> None:
    """Tests of the form `native` test it only where it can be compiled."""
    assert library.why_not() == ""
