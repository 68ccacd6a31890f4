"""The contract of an engine: what it does for one player, so that no other code depends on which engine it is."""

from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

from torch import Tensor, nn
from torch.optim import Adam

from sivae_dist.checkpoint.state import network_tensors, optimizer_tensors, restore_network, restore_optimizer
from sivae_dist.engines.settings import EngineSettings
from sivae_dist.models.layers.batch_norm import Statistics, move_running_statistics
from sivae_dist.step.optimizer import Ema, EmaSettings, OptimizerSettings

NetworkT = TypeVar("NetworkT", bound=nn.Module)
InputT = TypeVar("InputT", bound=tuple[Any, ...])
"""The arguments of the player's objective, for one micro-batch."""


class Turn(Protocol):
    """The part of an objective's result that an engine uses: a named tuple with a loss and statistics."""

    @property
    def loss(self) -> Tensor: ...
    @property
    def statistics(self) -> Statistics: ...
    def _replace(self, *, loss: Tensor) -> Self: ...


TurnT = TypeVar("TurnT", bound=Turn)


class Update(NamedTuple, Generic[TurnT]):
    """The result of one step of a player."""

    turns: list[TurnT]
    """The objective's, one per micro-batch, each with its loss detached."""
    norm: Tensor
    """Of the gradient, over all processes; 0-dimensional like the next two."""
    sound: Tensor
    """Whether this process's optimizer state was finite."""
    taken: Tensor
    """Whether anything has moved; the same on all processes."""


class Engine(ABC, Generic[NetworkT, InputT, TurnT]):
    """One player: its network, the moving average, the optimizer, and the objective of the current segment.

    The other player's engine holds the partner. `update` is the whole interface to the training loop. All processes
    call all methods together, with the same arguments but for each one's images.

    What is here is for engines that keep a copy of everything in every process.
    """

    def __init__(
        self,
        settings: EngineSettings,
        optimizer: OptimizerSettings,
        ema: EmaSettings,
        name: str,
        network: NetworkT,
        partner: nn.Module,
    ) -> None:
        """`name`: first part of canonical names (checkpoint/state.py)."""
        self.settings = settings
        self.clip = optimizer.clip
        self.name = name
        self.network = network
        self.partner = partner
        self.ema = Ema(ema, network)
        self.optimizer: Adam = optimizer.build(network.parameters())
        self.parameters: list[nn.Parameter] = []

    @abstractmethod
    def prepare(self, objective: nn.Module, parts_in_use: list[nn.Module]) -> None:
        """Takes over the objective of a new segment. Only the parameters of `parts_in_use` are trained by it."""

    @abstractmethod
    def update(self, inputs: Sequence[InputT], lr: float, allowed: Tensor) -> Update[TurnT]:
        """One step of the player over micro-batches.

        Nothing moves when the loss, the gradient or the optimizer's state of any process is not finite, or `allowed`
        (bool, 0-dimensional, on the device) is false.

        The gradient is the mean over micro-batches and processes, all of equal size.
        """

    @abstractmethod
    def rehearse(self, inputs: Sequence[InputT]) -> list[TurnT]:
        """Forward and backward as in `update`, and no step: for the memory that it takes. `prepare` follows.

        Gives the turns of `update`.
        """

    def forget_gradients(self) -> None:
        """Frees the gradients that a rehearsal has left."""
        for parameter in self.network.parameters():
            parameter.grad = None

    def missing_moments(self) -> int:
        """Bytes that the optimizer's first step for all parameters in use will allocate."""
        return sum(2 * p.nbytes for p in self.parameters if p not in self.optimizer.state)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """The player's parameters in use require gradients, and nobody else's do."""
        self.partner.requires_grad_(False)
        self.network.requires_grad_(False)
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        yield

    def commit(self, turns: Sequence[TurnT], taken: Tensor) -> None:
        """Moves running statistics, the partner's too, by those of a step's passes, unless it was not `taken`."""
        for turn in turns:
            if turn.statistics:
                move_running_statistics(self.network, self.partner, turn.statistics, taken)

    def average(self, images: int) -> None:
        """Moves the average by a step of `images` images."""
        self.ema.update(self.network, images)

    def reset(self) -> None:
        """Forgets the optimizer's state; `prepare` follows."""
        self.optimizer.state.clear()

    @contextmanager
    def whole(self, *, live: bool, here: bool = True) -> Iterator[NetworkT]:
        """The network, or its average, with all weights, for inference; only processes with `here` may use it."""
        yield self.network if live else self.ema.module  # type: ignore[misc]

    def specs(self) -> dict[str, Tensor]:
        """Tensors with the shapes and types of `tensors`, without communication."""
        return self.tensors(())

    def tensors(self, mine: Container[str]) -> dict[str, Tensor]:
        """Everything that training has made, by canonical name, sharing memory.

        Where no process holds it all, those in `mine` are put together, and the others are given as meta tensors.
        """
        return self.weights() | optimizer_tensors(f"{self.name}_optim", self.network, self.optimizer)

    def weights(self) -> dict[str, Tensor]:
        """Weights of network and average, by canonical name."""
        return network_tensors(self.name, self.network) | network_tensors(f"{self.name}_ema", self.ema.module)

    def restore_networks(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over network and average; `prepare` follows. ValueError naming what is missing or does not fit."""
        restore_network(self.name, self.network, tensors)
        restore_network(f"{self.name}_ema", self.ema.module, tensors)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` once gave, all of it; `prepare` follows. ValueError as `restore_networks`."""
        self.restore_networks(tensors)
        restore_optimizer(f"{self.name}_optim", self.network, self.optimizer, tensors)
