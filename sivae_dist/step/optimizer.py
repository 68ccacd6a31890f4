"""Adam with a step that non-finite gradients cannot reach, and the moving average of the weights."""

import inspect

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.optimizer import ParamsT
from torch.optim.swa_utils import AveragedModel

from sivae_dist.models.layers.batch_norm import BatchNorm2d
from sivae_dist.settings import Images, Settings


class EagerAdam(Adam):
    """torch's, with the bodies of its methods alone: what shields them from torch.compile imports the compiler first.

    That takes nearly as long as to import torch, and an optimizer is never compiled here.
    """

    add_param_group = inspect.unwrap(Adam.add_param_group)
    step = torch.no_grad()(inspect.unwrap(Adam.step))
    zero_grad = inspect.unwrap(Adam.zero_grad)


class OptimizerSettings(Settings):
    beta1: float = Field(0.9, ge=0, lt=1)
    """The paper: "default parameters"; the authors' style code: 0.0."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """The authors' style code: 0.99."""
    eps: float = Field(1e-8, gt=0)
    """Added to the denominator of Adam's step."""
    clip: float | None = Field(None, gt=0)
    """Maximum norm of a network's gradient; null: no clipping."""

    def build(self, parameters: ParamsT) -> Adam:
        """An optimizer for these parameters, or groups of them; those without a gradient are left alone."""
        return EagerAdam(parameters, lr=0.0, betas=(self.beta1, self.beta2), eps=self.eps, fused=True)


def guarded_step(
    optimizer: Adam, parameters: list[nn.Parameter], lr: float, clip: float | None, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Steps unless a gradient is not finite or `allowed` (bool, 0-dimensional) is false.

    Returns the gradient's norm and whether the step was taken.

    The decision is taken on the device, through the flag by which gradient scalers tell a fused optimizer to leave
    everything as it was, so that nothing has to wait for the host.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm, foreach=True)
    fine = torch.isfinite(norm) if allowed is None else torch.isfinite(norm) & allowed
    optimizer.found_inf = (~fine).to(torch.float32)  # type: ignore[attr-defined]
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return norm, fine


def state_is_finite(optimizer: Adam, parameters: list[nn.Parameter]) -> Tensor:
    """Whether Adam's moments are finite (bool, 0-dimensional); reads each once.

    The first moment is a mean of gradients whose norms were finite, so that its own norm cannot overflow.
    """
    states = [optimizer.state[p] for p in parameters if p in optimizer.state]
    if not states:
        return torch.ones((), dtype=torch.bool, device=parameters[0].device)
    norms = torch._foreach_norm([state["exp_avg"] for state in states])
    # Squares have no other infinity. As vectors, since a maximum of another format is one of a copy.
    largest = torch._foreach_max([_as_vector(state["exp_avg_sq"]) for state in states])
    return torch.isfinite(torch.stack([*norms, *largest])).all()


def _as_vector(dense: Tensor) -> Tensor:
    """A view of all its values, in the order of memory."""
    return dense.as_strided((dense.numel(),), (1,))


class EmaSettings(Settings):
    half_life: Images = Field(10_000, gt=0)
    """Images after which a weight's influence on the average is halved (the authors: 10,000)."""


class Ema(AveragedModel):
    """Exponential moving average of a network's parameters and running statistics; `module` is the averaged network."""

    def __init__(self, settings: EmaSettings, model: nn.Module) -> None:
        self.half_life = settings.half_life
        super().__init__(model)
        self.requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, images: int) -> None:
        """Moves the average by a step of `images` images."""
        # Not through update_parameters, which copies its count of steps to the device and waits for it.
        torch._foreach_lerp_(list(self.module.parameters()), list(model.parameters()), self.share(images))
        self.update_buffers(model, images)

    @torch.no_grad()
    def update_buffers(self, model: nn.Module, images: int) -> None:
        """The same for buffers; those that are not running statistics are copied."""
        layers = (module for module in self.module.modules() if isinstance(module, BatchNorm2d))
        running = {id(buffer) for layer in layers for buffer in layer.buffers(recurse=False)}
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            if id(average) in running:
                average.lerp_(buffer, self.share(images))
            else:
                average.copy_(buffer)

    def share(self, images: int) -> float:
        """The share of the way to the weights that the average moves in a step of `images` images."""
        return 1.0 - 0.5 ** (images / self.half_life)
