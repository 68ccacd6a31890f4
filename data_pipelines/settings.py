"""The base of every settings class of the three packages."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, closed to unknown keys; the docstring under a field is its documentation."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
