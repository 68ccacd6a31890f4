"""The two players of the game: both networks, their moving averages, and the engines that train them."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sivae_dist.checkpoint.state import network_tensors, optimizer_tensors, restore_network, restore_optimizer
from sivae_dist.config import RunSettings
from sivae_dist.engines import DdpEngine
from sivae_dist.models import StyleDecoder, StyleEncoder, build
from sivae_dist.optimizer import Ema
from sivae_dist.schedule import Segment

NAMES = ("encoder", "decoder")


class Players:
    """Encoder and decoder on a device. What they hold by canonical name is what a checkpoint holds."""

    def __init__(self, settings: RunSettings, device: torch.device) -> None:
        self.settings = settings
        layout = torch.channels_last if settings.engine.channels_last else torch.contiguous_format
        encoder, decoder = build(settings.model, settings.seed)
        for network in (encoder, decoder):
            network.to(device, settings.engine.dtype, memory_format=layout)  # type: ignore[call-overload]
        self.encoder, self.decoder = encoder, decoder
        self.encoder_ema, self.decoder_ema = Ema(settings.ema, encoder), Ema(settings.ema, decoder)
        self.encoder_engine = DdpEngine(settings.engine, settings.optimizer, encoder, decoder)
        self.decoder_engine = DdpEngine(settings.engine, settings.optimizer, decoder, encoder)

    @property
    def networks(self) -> tuple[StyleEncoder, StyleDecoder]:
        return self.encoder, self.decoder

    @property
    def averages(self) -> tuple[StyleEncoder, StyleDecoder]:
        """Both networks with their moving averages as weights."""
        encoder, decoder = self.encoder_ema.module, self.decoder_ema.module
        assert isinstance(encoder, StyleEncoder) and isinstance(decoder, StyleDecoder)
        return encoder, decoder

    def prepare(self, segment: Segment) -> None:
        """Makes both ready for the steps of a segment: their objectives, and the parameters that these use."""
        objectives = self.settings.objective.build(
            self.encoder,
            self.decoder,
            segment.resolution,
            self.settings.model.dimensions,
            warming_up=segment.warming_up,
            amp=self.settings.engine.amp,
        )
        in_use = (segment.resolution, segment.blending)
        self.encoder_engine.prepare(objectives[0], self.encoder.parts_in_use(*in_use))
        self.decoder_engine.prepare(objectives[1], self.decoder.parts_in_use(*in_use))

    def average(self, images: int) -> None:
        """Moves the averages by a step of `images` images."""
        self.encoder_ema.update(self.encoder, images)
        self.decoder_ema.update(self.decoder, images)

    def reset_optimizers(self) -> None:
        self.encoder_engine.reset()
        self.decoder_engine.reset()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training has made, by canonical name (checkpoint/state.py), sharing memory."""
        tensors: dict[str, Tensor] = {}
        for name in NAMES:
            network = getattr(self, name)
            tensors |= network_tensors(name, network)
            tensors |= network_tensors(f"{name}_ema", getattr(self, f"{name}_ema").module)
            tensors |= optimizer_tensors(f"{name}_optim", network, getattr(self, f"{name}_engine").optimizer)
        return tensors

    def full_size(self) -> int:
        """Bytes of `tensors` once every parameter has been trained."""
        networks = sum(tensor.nbytes for name in NAMES for tensor in getattr(self, name).state_dict().values())
        return 4 * networks  # weights, their average, and Adam's two moments

    def restore_networks(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over networks and averages. ValueError naming a tensor that is missing or does not fit."""
        for name in NAMES:
            restore_network(name, getattr(self, name), tensors)
            restore_network(f"{name}_ema", getattr(self, f"{name}_ema").module, tensors)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over what `tensors` once gave. ValueError naming a tensor that is missing or does not fit."""
        self.restore_networks(tensors)
        for name in NAMES:
            network = getattr(self, name)
            restore_optimizer(f"{name}_optim", network, getattr(self, f"{name}_engine").optimizer, tensors)
