"""The pictures that a visitor has drawn, in files that last as long as the visitor stays."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..picture import save_picture
from .wish import Attached


class Kept(NamedTuple):
    """A picture's PNG, the settings inside it, and the files that these name."""

    file: str
    settings: dict[str, Any]
    beside: tuple[str, ...]


class Keeper:
    """A temporary folder, which is removed with everything in it when the page ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pixart_fn-app-")

    def keep(self, pictures: list[tuple[Image.Image, dict[str, Any]]], files: Mapping[str, Attached]) -> list[Kept]:
        """Write pictures with their settings, and the files that they were drawn from.

        Args:
            pictures: each with its settings, as `wish.settings_of` gives them.
            files: from `wish.attached`.
        Returns:
            What was written, in the same order.
        Raises:
            OSError: the disk is full; nothing is left then.
        """
        home = Path(self._folder.name) / uuid.uuid4().hex
        home.mkdir()
        try:
            beside = []
            for name, content in files.values():
                (home / name).write_bytes(content)
                beside.append(str(home / name))
            return [self._one(home, picture, settings, tuple(beside)) for picture, settings in pictures]
        except BaseException:  # on a full disk above all
            shutil.rmtree(home, ignore_errors=True)
            raise

    def _one(self, home: Path, picture: Image.Image, settings: dict[str, Any], beside: tuple[str, ...]) -> Kept:
        which = f"-{settings['index'] + 1}" if "index" in settings else ""
        file = home / f"picture-{settings['seed']}{which}.png"
        save_picture(picture, file, **settings)
        return Kept(str(file), settings, beside)

    def drop(self, kept: Sequence[Kept], still: Sequence[Kept] = ()) -> None:
        """Remove pictures, and the files beside them that no other picture needs."""
        needed = {name for each in still for name in each.beside}
        for each in kept:
            for name in (each.file, *each.beside):
                if name not in needed:
                    Path(name).unlink(missing_ok=True)
            with suppress(OSError):  # where it holds other pictures, or is gone
                Path(each.file).parent.rmdir()

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()
