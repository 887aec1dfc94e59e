"""Where a checkpoint's files are: a local folder, or huggingface_hub's cache once they are downloaded."""

from __future__ import annotations

import os
import re
from pathlib import Path


def folder(source: str | os.PathLike, revision: str | None, patterns: list[str]) -> Path:
    """The local folder of a path, or of a hub id once its files are downloaded.

    Args:
        source: a folder, or a hub id "owner/name".
        revision: branch, tag or commit of a hub id; None for the newest.
        patterns: which files to download, as shell patterns.
    Raises:
        FileNotFoundError, ValueError: there is no such folder and it isn't a hub id, or a folder has no revision.
        OSError: the hub can't give the files.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision={revision!r} belongs to a hub id, and {path} is a folder; leave it out")
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; give the folder in diffusers layout that holds model_index.json")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        raise FileNotFoundError(f"there is no folder {path}; give a folder in diffusers layout or a hub id owner/name")
    return _download(str(source), revision, patterns)


def _download(repo: str, revision: str | None, patterns: list[str]) -> Path:
    """Bring a repository's files into huggingface_hub's cache, which resumes and keeps what it has."""
    from huggingface_hub import errors, snapshot_download

    at = f"{repo!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except errors.GatedRepoError as error:
        raise OSError(
            f"{at} is gated: accept its terms on https://huggingface.co/{repo}, then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise OSError(
            f"there is neither a folder nor a hub repository {at}; check the spelling, or log in with `hf auth login`"
            " if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise OSError(f"the hub has no {at}; leave revision out for the newest") from error
    except errors.LocalEntryNotFoundError as error:
        raise OSError(
            f"{at} is neither a folder nor complete in the hub's cache, and the hub can't be reached; connect (and"
            " unset HF_HUB_OFFLINE), or give a folder; load() without a source needs no network"
        ) from error
    except (errors.HTTPError, OSError) as error:
        reason = " ".join(str(error).split())
        raise OSError(f"the download of {at} stopped ({reason}); run the same call again to resume it") from error
