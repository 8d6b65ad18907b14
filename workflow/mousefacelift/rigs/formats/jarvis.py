"""JARVIS's `<camera>.yaml`: OpenCV FileStorage with intrinsicMatrix and R transposed, as multicam-calibration writes them.

The projection is ([R; T'] intrinsicMatrix)' on row vectors; distortionCoefficients k1 k2 p1 p2 k3 and the pixel origin
are OpenCV's (github.com/JARVIS-MoCap/JARVIS-HybridNet).
"""

from collections.abc import Mapping

from mousefacelift.geometry.camera import Camera
from mousefacelift.rigs.checks import checked_camera, numbers
from mousefacelift.rigs.containers.documents import Document

KINDS = ("YAML",)
LOOKS_FOR = "YAML file with intrinsicMatrix, distortionCoefficients, R, T"


def recognises(document: Document) -> bool:
    """Whether a YAML file has JARVIS's own spelling of the intrinsics."""
    return isinstance(document.content, Mapping) and "intrinsicMatrix" in document.content


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The file's one camera, called `name`."""
    table, where = document.content, f"{where}, camera {name!r}"
    return [
        checked_camera(
            where,
            name,
            K=numbers(table, "intrinsicMatrix", (3, 3), where),
            R=numbers(table, "R", (3, 3), where),
            t=numbers(table, "T", (3,), where),
            dist=numbers(table, "distortionCoefficients", (None,), where),
            first_pixel=0,
            transposed=True,
            fields=("intrinsicMatrix", "R", "distortionCoefficients"),
        )
    ]
