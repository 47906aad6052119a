"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path


def write(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Make or replace a file so that, after a power cut too, it holds all of ``data`` or is as it
    was. ``mode`` is that of a new file, before the umask. A leftover of a process that was killed
    ends in ``.tmp``.

    Raises:
        OSError: if it could not be written; then nothing has changed.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # Windows has no descriptors of folders
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
