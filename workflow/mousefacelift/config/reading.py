"""Reading and checking configuration: one clear error per mistake."""

import json
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mousefacelift.base.errors import UserError
from mousefacelift.base.parsing import nearest
from mousefacelift.config.config import Config
from mousefacelift.config.section import Section

SectionT = TypeVar("SectionT", bound=Section)


def validate(model: type[SectionT], values: object, where: str) -> SectionT:
    """Check values against a section's model.

    Raises UserError with one line per problem: the key's full name, what is wrong, and for an unknown key the nearest
    valid name. `where` names the file or option the values came from.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            unknown = problem["type"] == "extra_forbidden"
            location = tuple(part for part in problem["loc"] if unknown or not _is_union_branch(part))
            key = ".".join(str(part) for part in location) or "(top level)"
            if unknown:
                names = _valid_names(model, location[:-1])
                hint = nearest(str(location[-1]), names) or f"valid keys here: {', '.join(names)}"
                lines.append(f"unknown key {key!r}: {hint}")
            else:
                lines.append(f"{key}: {problem['msg'].removeprefix('Value error, ')} (found {problem['input']!r:.80})")
        raise UserError(f"{where}: " + "\n  ".join(dict.fromkeys(lines))) from None


def _is_union_branch(part: object) -> bool:
    """Pydantic puts the tried type's tag into the location of a union's errors; it is not a key."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-") or part in {"float", "int", "str"})


def _valid_names(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        annotation = model.model_fields[str(part)].annotation
        model = next(t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel))
    return list(model.model_fields)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping. Raises UserError if the file is missing, not YAML, or not a mapping."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise UserError(f"{path}: not a readable file ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(values).__name__}")
    return values


def load_config(path: Path) -> Config:
    """Read and check a configuration file."""
    return validate(Config, load_yaml(path), str(path))


def section_json(section: Section) -> str:
    """One section as canonical JSON: what a rule passes to its stage, and what Snakemake compares between runs."""
    return json.dumps(section.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
