"""What is generated from the configuration's models: config/schema.json, and the tables of keys in config/README.md."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mousefacelift.base.errors import UserError
from mousefacelift.config.config import Config

# Valid names of keys by the key's full name: of methods that register themselves in packages above this one.
Choices = Mapping[str, Sequence[str]]

Schema = dict[str, Any]
TABLE = re.compile(r"(<!-- keys of (\w+) -->\n).*?(<!-- end of keys -->)", re.DOTALL)
TOP = "configuration"  # the section's name for the keys that are in none
HEAD = "| key | default | values | meaning |\n|---|---|---|---|\n"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "multiple of"}


def json_schema(choices: Choices) -> str:
    """The text of config/schema.json."""
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **_schema(choices)}, indent=2) + "\n"


def with_tables(text: str, choices: Choices) -> str:
    """A document with the tables of keys between its markers, `<!-- keys of SECTION -->`, written again.

    Raises UserError for a section that does not exist.
    """
    schema = _schema(choices)

    def again(found: re.Match[str]) -> str:
        begin, section, end = found.groups()
        return begin + _table(schema, section) + end

    return TABLE.sub(again, text)


def _schema(choices: Choices) -> Schema:
    schema = Config.model_json_schema()
    for key, names in choices.items():
        part, *rest = key.split(".")
        field = schema["properties"][part]
        for part in rest:
            field = _section(schema, field)[part]
        described = {**field, "enum": list(names)}
        field.clear()
        field.update(sorted(described.items()))
    return schema


def _section(schema: Schema, field: Schema) -> Schema:
    """The keys of a field that is a section itself."""
    properties: Schema = schema["$defs"][field["$ref"].rpartition("/")[2]]["properties"]
    return properties


def _table(schema: Schema, section: str) -> str:
    top = schema["properties"]
    if section == TOP:
        fields = {name: field for name, field in top.items() if "$ref" not in field}
    elif "$ref" in top.get(section, {}):
        fields = _section(schema, top[section])
    else:
        raise UserError(f"<!-- keys of {section} -->: the configuration has no section {section!r}")
    return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in _rows(schema, fields))


def _rows(schema: Schema, fields: Schema, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    # Sections within the section come last.
    for name, field in sorted(fields.items(), key=lambda item: "$ref" in item[1]):
        if "$ref" in field:
            yield from _rows(schema, _section(schema, field), f"{prefix}{name}.")
        else:
            yield f"`{prefix}{name}`", f"`{_literal(field['default'])}`", _values(field), field["description"]


def _literal(value: Any) -> str:
    """A value as YAML writes it."""
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else json.dumps(value)


def _values(field: Schema) -> str:
    """The values that a field may have, in words."""
    if "anyOf" in field:
        return ", ".join(map(_values, field["anyOf"]))
    if "enum" in field or "const" in field:
        return ", ".join(f"`{_literal(value)}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "boolean":
        return "`true`, `false`"
    if field["type"] == "null":
        return "`null`"
    if field["type"] == "array":
        if "items" in field:
            return f"list of {_values(field['items'])}"
        return f"[{', '.join(map(_values, field['prefixItems']))}]"
    bounds = ", ".join(f"{sign} {_literal(field[name])}" for name, sign in BOUNDS.items() if name in field)
    return " ".join(filter(None, ({"string": "text"}.get(field["type"], field["type"]), bounds)))
