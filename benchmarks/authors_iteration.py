"""The iteration of the authors' own code, unpatched, from a clone that the user names.

    git clone https://github.com/taldatech/soft-intro-vae-pytorch

The loop around their modules is what their training script does for every batch outside the transition, on one process:
both updates and the moving average, without the loader and without the tracker that keeps the logged values.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sivae_dist.models.style import StyleSettings
from sivae_dist.objectives.soft_intro import SoftIntroSettings

FOLDER = "style_soft_intro_vae"
"""Folder of the style-based model in their repository."""
POSTERIOR_MAPPING = 3
"""Layers of their encoder's mapping, which has no setting."""
HALF_LIFE = 10_000
"""Half-life of their moving average, in images."""


def folder_of(clone: Path) -> Path:
    """The folder of their style-based model. ValueError where there is none."""
    for folder in (clone / FOLDER, clone):
        if all((folder / name).is_file() for name in ("net.py", "model.py", "custom_adam.py")):
            return folder.resolve()
    raise ValueError(f"{clone} is no clone of taldatech/soft-intro-vae-pytorch: it has no {FOLDER}/model.py")


class AuthorsIteration:
    name = "authors"

    def __init__(self, clone: Path, model: StyleSettings, objective: SoftIntroSettings, lr: float) -> None:
        """ValueError when `clone` is no clone of theirs, or their code has no such model."""
        if model.encoder_mapping != POSTERIOR_MAPPING:
            raise ValueError(f"model.encoder_mapping is {model.encoder_mapping}: the authors' code has 3 layers there")
        sys.path.insert(0, str(folder_of(clone)))
        theirs, optimizers = importlib.import_module("model"), importlib.import_module("custom_adam")
        sys.path.pop(0)
        weights = objective.weights(model.final_resolution, model.dimensions)
        shape = {
            "startf": model.base_width,
            "maxf": model.max_width,
            "layer_count": len(model.resolutions),
            "latent_size": model.latent,
            "mapping_layers": model.decoder_mapping,
            "channels": model.channels,
            "generator": "GeneratorDefault",
            "encoder": "EncoderDefault",
            "beta_kl": weights.beta_kl,
            "beta_rec": weights.beta_rec,
            "beta_neg": weights.beta_neg,
            "scale": weights.scale,
            "gamma_r": weights.gamma_r,
        }
        self.settings = model
        mixing = {"style_mixing_prob": objective.style_mixing, "dlatent_avg_beta": 0.995}
        self.model: Any = theirs.SoftIntroVAEModelTL(**shape, **mixing)
        self.model.train()
        self.average: Any = theirs.SoftIntroVAEModelTL(**shape)
        self.average.eval()
        self.average.requires_grad_(False)
        self.encoder_optimizer, self.decoder_optimizer = (
            optimizers.LREQAdam([{"params": part.parameters()} for part in parts], lr=lr, betas=(0.0, 0.99))
            for parts in (
                (self.model.encoder, self.model.mapping_tl),
                (self.model.decoder, self.model.mapping_fl),
            )
        )

    def ready(self, resolution: int, batch: int) -> Callable[[], None]:
        images = 2 * torch.rand(batch, *self.settings.shape(resolution)) - 1
        level, blend = self.settings.resolutions.index(resolution), 1.0
        kept = 0.5 ** (batch / HALF_LIFE)

        def iterate() -> None:
            x = images.detach().requires_grad_()
            for optimizer, encoding in ((self.encoder_optimizer, True), (self.decoder_optimizer, False)):
                optimizer.zero_grad()
                loss = self.model(x, level, blend, d_train=not encoding, e_train=encoding)
                loss.backward()
                optimizer.step()
            self.average.lerp(self.model, kept)

        return iterate
