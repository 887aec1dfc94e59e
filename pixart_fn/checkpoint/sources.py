"""What may be said of where files are, checked before anything is looked for: paths, hub ids and revisions."""

from __future__ import annotations

import os
import re

_ADDRESS = re.compile(
    r"(?:hf:/{1,2}|(?:https?:/{1,2})?(?:www\.)?(?:huggingface|hf)\.co/)"  # a Path makes one "/" of two
    r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/(?P<revision>[^/?]+))?.*"
)

LONGEST = 4000
"""Characters of a path: Linux takes 4096 bytes."""


def check_revision(revision: object, source: object) -> None:
    """Raise where a revision is no name, or is given for what isn't on the hub.

    Args:
        revision: None, or what should be the name of a branch, a tag or a commit.
        source: what it is given for; None for the embedded checkpoint.
    Raises:
        TypeError: the revision is no text, or empty.
        ValueError: the source is the embedded checkpoint, or a folder or a file that is here.
    """
    if revision is None:
        return
    if not (isinstance(revision, str) and revision):
        raise TypeError(f"revision must be the name of a branch, a tag or a commit, got {revision!r}")
    if source is None:
        raise ValueError(f"revision={revision!r} belongs to a hub id; the embedded checkpoint has none")
    path = os.path.expanduser(source) if isinstance(source, (str, os.PathLike)) else ""
    if os.path.exists(path):
        kind = "a folder" if os.path.isdir(path) else "a file"
        raise ValueError(f"revision={revision!r} belongs to a hub id, and {path} is {kind}; leave it out")


def refuse_address(text: str, argument: str) -> None:
    """Raise a ValueError where a text is the address of a page of the hub; it says the id."""
    if address := _ADDRESS.fullmatch(text):
        at = f" and revision={address['revision']!r}" if address["revision"] not in (None, "main") else ""
        raise ValueError(f"{argument} must be a folder or a hub id, got an address; give {address['id']!r}{at}")


def written(path: str | os.PathLike[str], argument: str, wanted: str) -> str:
    """Return a path as a string; raise a TypeError where it isn't a path, and a ValueError where it is empty."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"{argument} must be {wanted}, as a str or a Path, got {path!r:.60}")
    if not os.fspath(path).strip():
        raise ValueError(f"{argument} is empty; give {wanted}")
    if "\0" in os.fspath(path):
        raise ValueError(f"{argument} must be {wanted}, and no path holds a NUL, got {path!r:.60}")
    if len(os.fspath(path)) > LONGEST:
        raise ValueError(f"{argument} must be {wanted}, of at most {LONGEST} characters, got {path!r:.60}…")
    return os.fspath(path)
