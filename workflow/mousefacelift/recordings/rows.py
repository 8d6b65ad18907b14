"""A capture as JSON: how a rule hands its row of the table to a job, which then need not read the table again."""

import json
from dataclasses import asdict, fields

from pydantic import TypeAdapter, ValidationError

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.captures import Capture

KEYS = sorted(field.name for field in fields(Capture))


def capture_json(capture: Capture) -> str:
    """The capture as canonical JSON, which Snakemake compares between runs."""
    return json.dumps(asdict(capture), default=str, sort_keys=True)


def capture_from_json(text: str, where: str) -> Capture:
    """The capture that `capture_json` wrote. `where` names the option that the text came from.

    Raises UserError if the text is not JSON, a key is missing, unknown or of another type, or a list per camera has
    another length than there are cameras.
    """
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(values, dict) or sorted(values) != KEYS:
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
    for key, length in lengths.items():
        if length != len(capture.cameras):
            raise UserError(f"{where}: {key}: {length} entries for {len(capture.cameras)} cameras")
    return capture
