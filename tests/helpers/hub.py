"""A hub whose repositories are folders."""

from __future__ import annotations

import fnmatch
import shutil
from pathlib import Path

import pytest


class Hub:
    """What `load` calls of huggingface_hub; a repository is a folder, and what is downloaded is copied into a cache."""

    def __init__(self, repositories: dict[str, Path], cache: Path):
        self.repositories, self.cache = repositories, cache
        self.downloads: list[tuple[str, str | None, set[str]]] = []

    def list_repo_files(self, repo: str, *, revision: str | None) -> list[str]:
        folder = self.repositories[repo]
        return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]

    def snapshot_download(
        self, repo: str, *, revision: str | None, allow_patterns: list[str], local_dir: Path | None = None
    ) -> str:
        files = self.list_repo_files(repo, revision=revision)
        chosen = {file for file in files if any(fnmatch.fnmatchcase(file, pattern) for pattern in allow_patterns)}
        self.downloads.append((repo, revision, chosen))
        for file in chosen:
            (self.cache / repo / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.repositories[repo] / file, self.cache / repo / file)
        return str(self.cache / repo)

    def downloaded(self, repo: str = "owner/name") -> set[str]:
        return {file for name, _, files in self.downloads for file in files if name == repo}

    def put_in_place(self, monkeypatch: pytest.MonkeyPatch) -> Hub:
        """Be what this process asks instead of the hub."""
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: self)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost")
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)
        return self
