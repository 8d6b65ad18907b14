"""A capture as JSON: how a rule hands its row of the table to a job, which then need not read the table again."""

import json
from dataclasses import asdict, fields

from pydantic import TypeAdapter, ValidationError

from mousefacelift.base.errors import UserError
from mousefacelift.base.parsing import parse_json
from mousefacelift.recordings.captures import MAX_LABEL, NAME, Capture
from mousefacelift.rigs.checks import MM_PER_UNIT
from mousefacelift.rigs.registry import FORMATS

KEYS = sorted(field.name for field in fields(Capture) if field.name != "label")


def capture_json(capture: Capture) -> str:
    """The capture as canonical JSON, which Snakemake compares between runs. Without a label the key is left out."""
    values = asdict(capture)
    if capture.label is None:
        del values["label"]  # or all finished runs of an older version would run again
    return json.dumps(values, default=str, sort_keys=True)


def capture_from_json(text: str, where: str) -> Capture:
    """The capture that `capture_json` wrote. `where` names the option that the text came from.

    Raises UserError if the text is not JSON, a key is missing, unknown or of another type, a list per camera has
    another length than there are cameras, or a value is one that the captures table may not hold.
    """
    values = parse_json(text, where)
    if not isinstance(values, dict) or sorted(set(values) - {"label"}) != KEYS:
        raise UserError(f"{where}: expected one JSON object with the keys {', '.join(KEYS)}")
    try:
        capture = TypeAdapter(Capture).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise UserError(f"{where}: {key}: {problem['msg']} (found {problem['input']!r:.80})") from None
    lengths = {"videos": len(capture.videos), "sync": len(capture.sync), "masks": len(capture.masks or capture.cameras)}
    if isinstance(capture.calibration, tuple):
        lengths["calibration"] = len(capture.calibration)
    checks = {
        "name": NAME.fullmatch(capture.name),
        "cameras": capture.cameras and len(set(capture.cameras)) == len(capture.cameras),
        "fps": capture.fps is None or 0 < capture.fps < float("inf"),
        "label": capture.label is None or 0 <= capture.label <= MAX_LABEL,
        "format": capture.format in ("auto", *FORMATS),
        "unit": capture.unit in MM_PER_UNIT,
    }
    for key, right in checks.items():
        if not right:
            raise UserError(f"{where}: {key}: not what the captures table may hold (found {values[key]!r:.80})")
    for key, length in lengths.items():
        if length != len(capture.cameras):
            raise UserError(f"{where}: {key}: {length} entries for {len(capture.cameras)} cameras")
    return capture
