"""The kinds of data sets there are, by the name that `data.name` gives; a user's own are added by a decorator."""

from typing import Annotated

from data_pipelines.choices import Registry, one_of
from data_pipelines.dataset import DatasetSettings
from data_pipelines.images.dataset import ImageSettings
from data_pipelines.points.dataset import PointSettings

DATASETS: Registry[type[DatasetSettings]] = Registry("data", {"images": ImageSettings, "points": PointSettings})
DataSettings = Annotated[DatasetSettings, one_of(DATASETS, default="images")]
