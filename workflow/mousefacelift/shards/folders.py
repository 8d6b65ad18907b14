"""New folders of files, complete or absent."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mousefacelift.base.errors import UserError

# Keys and shards' names: what is valid in a tar and as a folder. A dot would end the key of a tar's member.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; rename it to `folder` on success, delete it on failure.

    What a killed writer of the same folder left behind is deleted first. Raises UserError if `folder` exists and is
    anything but an empty folder: nothing is overwritten, and nothing mixed.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: already exists and is not an empty folder; name a new one, or delete it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.iterdir():
        if re.fullmatch(rf"\.{re.escape(folder.name)}\.[0-9]+\.partial", stale.name):
            shutil.rmtree(stale)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    temporary.mkdir()
    try:
        yield temporary
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
