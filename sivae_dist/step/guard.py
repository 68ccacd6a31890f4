"""The guard against values that are not finite, in a loss, a gradient or the optimizer's state: they never reach the
weights."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from data_pipelines.stages import pixels
from sivae_dist.process.processes import everyone
from sivae_dist.settings import Settings
from sivae_dist.step.schedule import Step


class GuardSettings(Settings):
    policy: Literal["stop", "skip", "rollback"] = "stop"
    """`stop` ends the run; `skip` skips the step and counts it; `rollback` returns to the last checkpoint.

    A skipped step changes no weight and no optimizer state; the averages continue to move towards the weights.
    """
    limit: int = Field(5, ge=1)
    """Consecutive skipped steps, or returns from the same place, after which the run ends anyway."""


class NonFiniteError(RuntimeError):
    """A loss, gradient or optimizer state was not finite. No step was taken with it."""


class Guard:
    """Keeps its counts on the device, so that nothing waits for it; only `check` reads them on the host."""

    def __init__(self, settings: GuardSettings, device: torch.device) -> None:
        self.settings = settings
        self.device = device
        self._returns = (0, 0)  # the step from which the run last returned, and how often
        self.reset(0)

    def reset(self, skipped: int) -> None:
        """Starts anew, with `skipped` steps skipped so far."""
        self.skipped = torch.tensor(skipped, device=self.device)
        self._reported = skipped
        self._in_row = torch.zeros((), dtype=torch.int64, device=self.device)
        self._fine = torch.ones((), dtype=torch.bool, device=self.device)
        self._names: list[str] = []
        self._finite: Tensor | None = None

    def allowed(self) -> Tensor:
        """Whether the next step may change anything (bool, 0-dimensional, on the device)."""
        return torch.ones_like(self._fine) if self.settings.policy == "skip" else self._fine

    def note(self, terms: dict[str, Tensor], sound: dict[str, Tensor], norms: dict[str, Tensor], fine: Tensor) -> None:
        """After a step: its terms, whether each optimizer's state was finite, the gradients' norms, and whether both
        players' steps were taken. The first here is reported first, as the cause of the rest."""
        checks = {name: torch.isfinite(term) for name, term in terms.items()}
        checks |= {f"the optimizer's state of the {name}": state for name, state in sound.items()}
        checks |= {name: torch.isfinite(norm) for name, norm in norms.items()}
        finite = torch.stack(list(checks.values()))
        first = self._in_row == 0  # the first such step is reported, not its consequences
        if self._finite is not None and self._names == list(checks):  # another segment has other terms
            finite = torch.where(first, finite, self._finite)
        self._names, self._finite = list(checks), finite
        self.skipped += ~fine
        self._in_row = torch.where(fine, 0, self._in_row + 1)
        self._fine = fine

    def check(self, step: Step) -> str | None:
        """Waits for the device. Returns a line to report when steps have been skipped since the last check.

        NonFiniteError when the run cannot simply continue. All processes decide alike, since a gradient holds what any
        of them found.
        """
        in_row, skipped = int(self._in_row), int(self.skipped)
        if skipped == self._reported:
            return None
        self._reported = skipped
        message = (
            f"{self._culprit()} was not finite{pixels(step.phase.resolution, ' at ')}, before {step.end:,} images; "
            "it has not reached the weights"
        )
        if self.settings.policy == "skip" and in_row <= self.settings.limit:
            return f"warning: {message}; {skipped:,} steps have been skipped so far"
        raise NonFiniteError(
            f"{message}. Try guard.policy=rollback or skip here; or, in a new run from this one (init.run), a larger "
            "objective.beta_neg or margin, a smaller schedule.lr_encoder and lr_decoder, or optimizer.clip=1"
        )

    def returns(self, images: int) -> bool:
        """Whether a run that `check` ended after `images` images should return to its last checkpoint; counts it."""
        place, times = self._returns
        self._returns = (images, times + 1) if images <= place else (images, 1)
        return self.settings.policy == "rollback" and self._returns[1] <= self.settings.limit

    def _culprit(self) -> str:
        """The first of all checks that failed on any process."""
        finite = [] if self._finite is None else self._finite.tolist()
        found = everyone(lambda: finite.index(False) if False in finite else len(finite))
        return [*self._names, "something"][min(found)]
