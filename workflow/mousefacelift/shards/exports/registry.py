"""Exports by name. Add one by adding its module, with EXPORT, here."""

from mousefacelift.base.errors import UserError
from mousefacelift.shards.exports import facelift, transforms
from mousefacelift.shards.exports.samples import Export

EXPORTS: dict[str, Export] = {
    "facelift": facelift.EXPORT,
    "transforms": transforms.EXPORT,
}


def find_export(name: str) -> Export:
    """The export of a name. Raises UserError, listing all names, if there is none."""
    if name not in EXPORTS:
        known = ", ".join(f"{each} ({export.description})" for each, export in EXPORTS.items())
        raise UserError(f"export to {name!r}: no such layout; choose one of {known}")
    return EXPORTS[name]
