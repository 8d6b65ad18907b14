"""A sample's JSON in the tar: FaceLift's opencv_cameras.json with what this package knows of the sample beside it.

All keys of the JSON survive being read and written again, in their order: an import keeps whatever a FaceLift JSON holds.
"""

import json
from typing import Any

import numpy as np
from pydantic import (
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.views import inverse_rigid
from mousefacelift.shards.strict import Count, Strict

Number = int | float


class KeepsKeys(Strict):
    """Part of a JSON file: `model_dump` gives its keys as they were read, unknown ones too, in their order."""

    model_config = ConfigDict(extra="allow")
    _keys: tuple[str, ...] = PrivateAttr(())

    def has(self, key: str) -> bool:
        """Whether the JSON holds a key."""
        return key in self._keys

    @model_validator(mode="wrap")
    @classmethod
    def _note_keys(cls, values: Any, handler: ModelWrapValidatorHandler["KeepsKeys"]) -> "KeepsKeys":
        made = handler(values)
        if isinstance(values, dict):
            made._keys = tuple(values)
        return made

    @model_serializer(mode="wrap")
    def _in_order(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = handler(self)
        return {key: values[key] for key in self._keys}


class ViewMeta(KeepsKeys):
    """One of FaceLift's `frames`: a view's image and camera. w2c: [4, 4]; px, first pixel's centre at (0.5, 0.5)."""

    w: Count | None = None
    h: Count | None = None
    fx: Number
    fy: Number
    cx: Number
    cy: Number
    w2c: list[list[Number]]
    file_path: str | None = None


class SampleMeta(KeepsKeys):
    """A sample's JSON. Every reader needs the cameras; `shard` and imports write id, capture, frame, split and views too.

    frame: the moment's index in the video. frames: one per view. world_from_mm: [4, 4] from the calibration's millimetres
    to the sample's world, where it is known.
    """

    id: str | None = None
    capture: str | None = None
    frame: int | None = None
    time_s: Any = None
    split: str | None = None
    views: list[str] | None = None
    world_from_mm: Any = None
    frames: list[ViewMeta]

    def cameras(self) -> tuple[Array, Array]:
        """c2w [V, 4, 4] and fxfycxcy [V, 4] of the views. Raises ValueError if the matrices have other shapes."""
        w2c = np.array([view.w2c for view in self.frames], np.float64)
        intrinsics = [[view.fx, view.fy, view.cx, view.cy] for view in self.frames]
        return inverse_rigid(w2c), np.array(intrinsics, np.float64)

    def encoded(self) -> bytes:
        """The JSON as it lies in the tar: in the shortest form. Raises ValueError for a number that is not finite."""
        return json.dumps(self.model_dump(), separators=(",", ":"), allow_nan=False).encode()


def opencv_cameras(w2c: Array, fxfycxcy: Array, size: int, names: list[str]) -> list[ViewMeta]:
    """FaceLift's `frames` of one sample's square views. w2c: [V, 4, 4]; fxfycxcy: [V, 4]; size in px; names of the files."""
    return [
        ViewMeta(w=size, h=size, fx=k[0], fy=k[1], cx=k[2], cy=k[3], w2c=m, file_path=name)
        for m, k, name in zip(w2c.tolist(), fxfycxcy.tolist(), names, strict=True)
    ]
