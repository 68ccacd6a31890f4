"""The loaders there are, by the name that `data.loader` gives."""

from data_pipelines.choices import Registry
from data_pipelines.images.dali_loader import DaliLoader
from data_pipelines.images.loader import Loader

LOADERS: Registry[type[Loader]] = Registry("loader", {"cpu": Loader, "dali": DaliLoader})

USUAL_LOADER = "cpu"
"""What is used unless something else is asked for."""
