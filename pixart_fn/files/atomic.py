"""Writing a file in one step: under a temporary name in its folder, which is then renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file in one step, so that a run that is stopped leaves either the old file or the new one.

    Args:
        path: the file, whose folder must exist; an existing file is replaced.
        save: a function that writes the content to the path that it is given.
    Raises:
        FileExistsError: the temporary name is in use.
        Exception: whatever `save` raises.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    temporary.touch(exist_ok=False)
    try:
        save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
