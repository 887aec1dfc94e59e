"""Files that appear whole: written under a temporary name in their folder, then renamed."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write(path: Path, save: Callable[[Path], object]) -> None:
    """Write a file in one step, so that a run that stops leaves either the old file or the new one, and nothing else.

    Args:
        path: the file, whose folder exists; one of that name is replaced.
        save: writes the content to the path that it is given, whose name it must not change.
    Raises: what `save` raises; FileExistsError: the temporary name is taken.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    temporary.touch(exist_ok=False)
    try:
        save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
