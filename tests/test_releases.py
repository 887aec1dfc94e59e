"""A release: the changelog has an entry for the version, and the workflow checks what it publishes."""

from __future__ import annotations

import re
from pathlib import Path

import pixart_fn as px

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = (ROOT / ".github/workflows/release.yml").read_text("utf-8")


def entries() -> list[tuple[str, str]]:
    """The versions of the changelog, the newest first, each with what stands in brackets beside it."""
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    titles = re.findall(r"^## (.*)$", changelog, re.M)
    found = [re.fullmatch(r"(\d+\.\d+\.\d+) \((.+)\)", title) for title in titles]
    assert all(found), f"each entry is ## VERSION (DATE or in preparation): {titles}"
    return [(each[1], each[2]) for each in found]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def test_the_version_has_the_newest_entry_of_the_changelog():
    (newest, when), *older = entries()
    version, _, dev = px.__version__.partition(".dev")
    assert version == newest
    if dev:
        assert when == "in preparation"
    for _, date in older if dev else entries():
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date)


def test_the_versions_fall_and_each_has_one_entry():
    versions = [numbers(version) for version, _ in entries()]
    assert versions == sorted(set(versions), reverse=True)


def test_the_version_is_written_in_one_place():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert 'dynamic = ["version"]' in project and 'attr = "pixart_fn.__version__"' in project
    assert not re.search(r"^version = \"", project, re.M)
    assert f"version = {{{px.__version__.partition('.dev')[0]}}}" in (ROOT / "README.md").read_text("utf-8")


def test_the_workflow_publishes_what_it_checked_and_names_what_there_is():
    jobs = re.findall(r"^  (\w+):$", WORKFLOW.partition("\njobs:\n")[2], re.M)
    assert jobs == ["build", "install", "publish"]
    publish = WORKFLOW.partition("\n  publish:\n")[2]
    assert "needs: [build, install]" in publish and "id-token: write" in publish and "environment: release" in publish
    assert WORKFLOW.count("id-token") == 1 and "password" not in WORKFLOW and "secrets." not in WORKFLOW
    for file in re.findall(r"tests/test_\w+\.py", WORKFLOW):
        assert (ROOT / file).exists()
    minors = re.findall(r'"3\.(\d+)"', WORKFLOW)
    low, high = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8")
    ).groups()
    assert {*map(int, minors)} == {*range(int(low), int(high))}
