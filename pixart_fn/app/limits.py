"""What one visitor of the page may take."""

from __future__ import annotations

from dataclasses import dataclass

from ..checks import check_whole
from ..public import public_class
from ..settings import PICTURES, SIDE, STEPS


@public_class
@dataclass(frozen=True)
class Limits:
    """What the page takes at most; every number is checked again on the server before anything is drawn.

    Args:
        pixels: of one picture, height times width, 1 … 8192².
        steps: of the solver, 1 … 10,000.
        pictures: drawn together, 1 … 64.
        kept: pictures that each visitor's gallery holds before the oldest are dropped, 1 … 10,000.
        prompt: characters of the prompt, and of the negative prompt, 1 … 100,000.
        waiting: drawings that wait or run at once, of all visitors together, 1 … 1000; one runs, and the others wait.
        upload: MiB of an uploaded file, 1 … 65,536.
    Raises:
        TypeError: a limit isn't a whole number.
        ValueError: a limit is outside its range.
    """

    pixels: int = 2048**2
    steps: int = 100
    pictures: int = 4
    kept: int = 24
    prompt: int = 2000
    waiting: int = 8
    upload: int = 512

    def __post_init__(self) -> None:
        check_whole("pixels", self.pixels, 1, SIDE**2)
        check_whole("steps", self.steps, 1, STEPS)
        check_whole("pictures", self.pictures, 1, 64)
        check_whole("kept", self.kept, 1, PICTURES)
        check_whole("prompt", self.prompt, 1, 100_000)
        check_whole("waiting", self.waiting, 1, 1000)
        check_whole("upload", self.upload, 1, 2**16)
