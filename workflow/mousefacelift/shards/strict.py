"""What the models of the manifest and of a sample's JSON have in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Count = Annotated[int, Field(ge=0)]


class Strict(BaseModel):
    """Values are checked without conversion, 5.0 and true are no whole numbers, and then frozen."""

    model_config = ConfigDict(frozen=True, strict=True)


def first_problem(error: ValidationError) -> str:
    """The first of a validation error's problems: the key's full name, what is wrong, and what was found."""
    problem = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    text = problem["msg"].removeprefix("Value error, ")
    missing = problem["type"] == "missing"
    return (f"{key}: " if key else "") + (text if missing else f"{text} (found {problem['input']!r:.80})")
