"""What every section of the configuration has in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the configuration. Unknown keys are errors; values are checked and then frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
