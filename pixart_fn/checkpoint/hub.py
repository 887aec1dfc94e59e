"""The places of a checkpoint's files: a folder, or a repository of the hub, from which only what is read is fetched."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies

from ..files import reading
from ..files.owned import Lock
from .sources import refuse_address, written


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
    to: Path | None = None
    """The folder that files are downloaded to; None for huggingface_hub's cache."""

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
            path = Path(snapshot_download(self.id, revision=self.revision, allow_patterns=patterns, local_dir=self.to))
        except (errors.HTTPError, OSError) as error:
            raise _explained(error, self.id, self.revision, stage="download") from error
        return Folder(path, cache_of=self.id).fetch(names)  # without a connection it may give what it has

    def lacks(self, name: str, hint: str = "") -> OSError:
        """Make the error for a missing file; the hint follows the file's name."""
        return OSError(f"the hub's {self} has no {name}{hint}")


Place: TypeAlias = Folder | Repository


class Published(NamedTuple):
    """What the hub says of a file."""

    size: int
    sha256: str | None
    """Of a large file."""
    git: str
    """The hash by which git knows the content of a small one."""

    def mistake(self, path: Path) -> str:
        """Say what is wrong about a local copy of the file; "" where nothing is."""
        size = path.stat().st_size
        if size != self.size:
            return f"it has {size} bytes, and the hub says {self.size}"
        digest = hashlib.sha256() if self.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with os.fdopen(reading.descriptor(path), "rb") as file:
            while piece := file.read(2**24):
                digest.update(piece)
        expected = self.sha256 or self.git
        return "" if digest.hexdigest() == expected else f"its {digest.name} isn't {expected}, as the hub says"


def published(place: Repository) -> dict[str, Published]:
    """Ask the hub for the size and the hash of each file of a repository.

    Args:
        place: the repository.
    Returns:
        What it says of each file, by name.
    Raises:
        OSError: the hub can't say it.
    """
    from huggingface_hub import HfApi, errors

    try:
        info = HfApi().model_info(place.id, revision=place.revision, files_metadata=True)
    except (errors.HTTPError, OSError) as error:
        raise _explained(error, place.id, place.revision, stage="listing") from error
    found = {}
    for file in info.siblings or ():
        if file.size is None or (file.lfs is None and file.blob_id is None):
            raise OSError(f"the hub says no size or no hash of {file.rfilename} of {place}; run it again later")
        found[file.rfilename] = Published(file.size, file.lfs.sha256 if file.lfs else None, file.blob_id or "")
    return found


def large(place: Repository, name: str, said: Published) -> tuple[Path, Path]:
    """Return where a large file belongs, and where the part of it is that was downloaded so far."""
    from huggingface_hub import constants

    if place.to is not None:
        return place.to / name, place.to / ".cache" / f"{said.sha256}.part"
    folder = Path(constants.HF_HUB_CACHE) / f"models--{place.id.replace('/', '--')}" / "blobs"
    return folder / str(said.sha256), folder / f"{said.sha256}.part"


def download(place: Repository, name: str, said: Published) -> bool:
    """Download a large file to where `Repository.fetch` finds it, and go on where an earlier download was stopped.

    huggingface_hub goes on within one process only: the next one would begin the file again.

    Args:
        place: the repository.
        name: the file's name in it.
        said: what the hub says of the file, with its SHA-256.
    Returns:
        Whether it was downloaded, and checked; False where there is such a file already.
    Raises:
        OSError: the hub can't give it, sends another content than it says, or another process downloads it.
    """
    from huggingface_hub import errors, hf_hub_url
    from huggingface_hub.file_download import http_get

    target, part = large(place, name, said)
    if target.exists():
        return False
    for each in (target, part):
        each.parent.mkdir(parents=True, exist_ok=True)
    lock = Lock(part, os.O_RDWR | os.O_CREAT)
    try:
        if lock.take(wait=False) is False:
            raise BlockingIOError(f"another process downloads {name} of {place}; wait for it, then run this again")
        with open(part, "ab") as file:
            url, headers = hf_hub_url(place.id, name, revision=place.revision), _authorised()
            if file.tell() > said.size:
                file.truncate(0)
            start = file.seek(0, os.SEEK_END)
            http_get(url, file, resume_size=start, headers=headers, expected_size=said.size, displayed_filename=name)
        if wrong := said.mistake(part):
            part.unlink()
            raise OSError(f"what was downloaded as {name} isn't what {place} has: {wrong}")
        os.replace(part, target)
    except BlockingIOError:
        raise
    except (errors.HTTPError, OSError) as error:
        raise _explained(error, place.id, place.revision, stage="download") from error
    finally:
        lock.close()
    return True


def _authorised() -> dict[str, str]:
    """The header for what only a user who has logged in may download."""
    from huggingface_hub import get_token

    token = get_token()
    return {"authorization": f"Bearer {token}"} if token else {}


def cached(repo: str, revision: str | None = None) -> Folder | None:
    """Find what huggingface_hub's cache holds of a repository, without a connection.

    Args:
        repo: its hub id.
        revision: branch, tag or commit; None for the main branch.
    Returns:
        The folder, which may lack files, or None where there is none.
    """
    from huggingface_hub import snapshot_download

    try:
        path = snapshot_download(repo, revision=revision, local_files_only=True, allow_patterns=[])
    except OSError:
        return None
    return Folder(Path(path), cache_of=repo)


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
        ValueError: the source is a file or an address.
        OSError: the hub can't list the repository, and the cache has nothing of it.
    """
    text = written(source, argument, "a folder in diffusers layout or a hub id owner/name")
    refuse_address(text, argument)
    path = Path(os.path.expanduser(text))
    if path.is_dir():
        return Folder(path)
    if path.exists():
        if path.suffix.lower() in (".pth", ".pt", ".ckpt", ".safetensors") and argument == "transformer":
            raise ValueError(
                f"{path} is a file, and transformer takes a folder in diffusers layout; px.convert(path, folder) makes"
                " one of a file by PixArt's authors"
            )
        outer = next((p for p in list(path.parents)[:2] if (p / "model_index.json").is_file()), path.parent)
        raise ValueError(
            f"{path} is a file; give the folder {outer if argument == 'source' else path.parent} as {argument}"
        )
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", text.rstrip("/")):
        raise FileNotFoundError(f"there is no folder {path}; give a folder in diffusers layout or a hub id owner/name")
    return _repository(text.rstrip("/"), revision)


def _repository(repo: str, revision: str | None) -> Place:
    """Return the repository that the hub lists or, where the hub doesn't answer, the cache of it."""
    from huggingface_hub import HfApi, errors

    try:
        _resolve()
        return Repository(repo, revision, frozenset(HfApi().list_repo_files(repo, revision=revision)))
    except (errors.HTTPError, OSError) as error:
        unlisted = error
    found = None if isinstance(unlisted, errors.RevisionNotFoundError) else cached(repo, revision)
    if found is None:
        raise _explained(unlisted, repo, revision, stage="listing") from unlisted
    return found


def _resolve() -> None:
    """Raise an OSError at once where there is no network; huggingface_hub would ask again for 23 seconds."""
    from huggingface_hub import constants

    address, proxies = urlsplit(constants.ENDPOINT), getproxies()
    if not {address.scheme, "all"} & {*proxies}:  # a proxy resolves the name itself
        socket.getaddrinfo(address.hostname, address.port)


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
            " HF_HUB_OFFLINE), or give a folder; px.load() without a source needs no network"
        )
    reason = " ".join(str(error).split())
    return OSError(f"the {stage} of {at} stopped ({reason}); run the same call again to resume it")
