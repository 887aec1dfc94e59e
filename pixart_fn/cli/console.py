"""What the command says: results to stdout, notes and errors to stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import TextIO


def report(error: str, status: int = 2) -> int:
    """Print an error that isn't ours, in one line, and return the exit status for it."""
    note(error)
    return status


def note(text: str) -> None:
    """Print one line to stderr."""
    _say(f"pixart-fn: {plain(' '.join(text.split()))}", sys.stderr)


def result(text: str) -> None:
    """Print one line to stdout, without control characters if stdout is a terminal."""
    _say(plain(text) if sys.stdout is not None and sys.stdout.isatty() else text, sys.stdout)


def document(content: object) -> None:
    """Print one value as JSON to stdout, in ASCII, which every stream holds."""
    for line in json.dumps(content, indent=2).splitlines():
        result(line)


def plain(text: str) -> str:
    """Escape control characters, and those that turn the writing direction, as Python does."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _say(text: str, stream: TextIO | None) -> None:
    if stream is None:  # it was closed before the process began
        return
    encoding = stream.encoding or "utf-8"
    if hasattr(stream, "buffer"):
        try:
            written = f"{text}{os.linesep}".encode(encoding, "surrogateescape")  # a file's name as the system has it
        except UnicodeEncodeError:
            pass
        else:
            stream.flush()
            stream.buffer.write(written)
            stream.buffer.flush()
            return
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)
