"""The kinds of data sets there are, by the name that `data.name` gives; a user's own are added by a decorator."""

from typing import Annotated

from data_pipelines.choices import Registry, one_of
from data_pipelines.dataset import DatasetSettings
from data_pipelines.images.dataset import ImageSettings

DATASETS: Registry[type[DatasetSettings]] = Registry("data", {"images": ImageSettings})
DataSettings = Annotated[DatasetSettings, one_of(DATASETS, default="images")]
