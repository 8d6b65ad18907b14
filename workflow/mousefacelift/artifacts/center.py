"""What `center` writes."""

from enum import IntFlag


class Flag(IntFlag):
    """What is wrong with one view of one frame. Without a frame (MISSING) the view counts as EMPTY too.

    LARGE, far larger than the mouse, is found by `cameras`, which sees the whole capture.
    """

    EMPTY = 1
    CLIPPED = 2
    SEVERAL_BLOBS = 4
    UNSHARP = 8
    MISSING = 16
    LARGE = 32
