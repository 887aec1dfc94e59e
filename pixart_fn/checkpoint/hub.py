"""The places of a checkpoint's files: a folder, or a repository of the hub, from which only what is read is fetched."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

_ADDRESS = re.compile(
    r"(?:hf:/{1,2}|(?:https?:/{1,2})?(?:www\.)?(?:huggingface|hf)\.co/)"  # a Path makes one "/" of two
    r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?:tree|blob|resolve)/(?P<revision>[^/?]+))?.*"
)

LONGEST = 4000
"""Characters of a path: Linux takes 4096 bytes."""


@dataclass(frozen=True)
class Folder:
    """A folder, or the part of a repository that huggingface_hub's cache holds while the hub can't be reached.

    Names of files are relative and use "/", as in "vae/config.json".
    """

    path: Path
    cache_of: str | None = None
    """The hub id of a cached repository, which may be incomplete; None for a folder."""

    def __str__(self) -> str:
        return f"the hub's cache of {self.cache_of!r}" if self.cache_of else str(self.path)

    def has(self, name: str) -> bool:
        """Return whether there is something to read; what is no regular file is refused when it is read."""
        file = self.path / name
        return file.exists() and not file.is_dir()

    def names(self, under: str) -> list[str]:
        """Return the names of the files that lie directly in a folder inside."""
        inside = self.path / under
        names = [path.name for path in inside.iterdir() if path.is_file()] if inside.is_dir() else []
        return sorted(name for name in names if name.isprintable())

    def fetch(self, names: Collection[str]) -> Path:
        """Return the local folder that has the files; raise an error that names one that is missing."""
        for name in names:
            if not self.has(name):
                raise self.lacks(name)
        return self.path

    def lacks(self, name: str, hint: str = "") -> OSError:
        """Make the error for a missing file; the hint follows the file's name."""
        if self.cache_of:
            return OSError(f"{self} is incomplete: {name} is missing; connect and run it again")
        return FileNotFoundError(f"{self.path / name} is missing{hint}")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub and the names of its files, of which none is downloaded before `fetch`."""

    id: str
    revision: str | None
    files: frozenset[str]

    def __str__(self) -> str:
        return _called(self.id, self.revision)

    def has(self, name: str) -> bool:
        return name in self.files

    def names(self, under: str) -> list[str]:
        """Return the names of the files that lie directly in a folder inside."""
        prefix = f"{under}/" if under else ""
        inside = [name.removeprefix(prefix) for name in self.files if name.startswith(prefix)]
        return sorted(name for name in inside if "/" not in name and name.isprintable())

    def fetch(self, names: Collection[str]) -> Path:
        """Return the local folder that has the files, after downloading those that aren't in the cache.

        Args:
            names: the names of files that the repository has.
        Raises:
            OSError: the hub can't give one of them.
        """
        from huggingface_hub import errors, snapshot_download

        patterns = [glob.escape(name) for name in sorted(names)]
        try:
            path = Path(snapshot_download(self.id, revision=self.revision, allow_patterns=patterns))
        except (errors.HTTPError, OSError) as error:
            raise _explained(error, self.id, self.revision, stage="download") from error
        return Folder(path, cache_of=self.id).fetch(names)  # without a connection it may give what it has

    def lacks(self, name: str, hint: str = "") -> OSError:
        """Make the error for a missing file; the hint follows the file's name."""
        return OSError(f"the hub's {self} has no {name}{hint}")


Place: TypeAlias = Folder | Repository


def find(source: str | os.PathLike[str], revision: str | None = None, argument: str = "source") -> Place:
    """Find the folder of a path, or the repository of a hub id.

    Args:
        source: a folder, or a hub id "owner/name".
        revision: branch, tag or commit of a hub id; None for the newest.
        argument: the name of the source in an error.
    Returns:
        The Folder or the Repository.
    Raises:
        TypeError: the source is neither a string nor a path.
        FileNotFoundError: there is no such folder, and the source isn't a hub id.
        ValueError: the source is a file or an address, or a revision is given for a folder.
        OSError: the hub can't list the repository, and the cache has nothing of it.
    """
    text = written(source, argument, "a folder in diffusers layout or a hub id owner/name")
    if address := _ADDRESS.fullmatch(text):
        at = f" and revision={address['revision']!r}" if address["revision"] not in (None, "main") else ""
        raise ValueError(f"{argument} must be a folder or a hub id, got an address; give {address['id']!r}{at}")
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} belongs to a hub id, and {path} is a folder; leave it out")
        return Folder(path)
    if path.exists():
        outer = next((p for p in list(path.parents)[:2] if (p / "model_index.json").is_file()), path.parent)
        raise ValueError(
            f"{path} is a file; give the folder {outer if argument == 'source' else path.parent} as {argument}"
        )
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text.rstrip("/")):
        raise FileNotFoundError(f"there is no folder {path}; give a folder in diffusers layout or a hub id owner/name")
    return _repository(text.rstrip("/"), revision)


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


def _repository(repo: str, revision: str | None) -> Place:
    """Return the repository that the hub lists or, where the hub doesn't answer, the cache of it."""
    from huggingface_hub import HfApi, errors, snapshot_download

    try:
        return Repository(repo, revision, frozenset(HfApi().list_repo_files(repo, revision=revision)))
    except (errors.HTTPError, OSError) as error:
        unlisted = error
    try:
        if isinstance(unlisted, errors.RevisionNotFoundError):
            raise unlisted
        cache = snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[])
    except OSError:
        raise _explained(unlisted, repo, revision, stage="listing") from unlisted
    return Folder(Path(cache), cache_of=repo)


def _called(repo: str, revision: str | None) -> str:
    return f"{repo!r}" + (f" at revision {revision!r}" if revision else "")


def _explained(error: Exception, repo: str, revision: str | None, stage: str) -> OSError:
    """Turn huggingface_hub's error into one sentence that says what to do."""
    from huggingface_hub import errors

    at = _called(repo, revision)
    if isinstance(error, errors.GatedRepoError):
        return OSError(
            f"{at} is gated: accept its terms on https://huggingface.co/{repo}, then log in with `hf auth login`"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return OSError(
            f"there is neither a folder nor a hub repository {at}; check the spelling, or log in with `hf auth login`"
            " if it is private"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return OSError(f"the hub has no {at}; leave revision out for the newest")
    unreachable = isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled))
    if unreachable or (stage == "listing" and not isinstance(error, errors.HfHubHTTPError)):
        return OSError(
            f"{at} is neither a folder nor in the hub's cache, and the hub can't be reached; connect (and unset"
            " HF_HUB_OFFLINE), or give a folder; load() without a source needs no network"
        )
    reason = " ".join(str(error).split())
    return OSError(f"the {stage} of {at} stopped ({reason}); run the same call again to resume it")
