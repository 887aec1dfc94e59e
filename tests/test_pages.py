"""What the README and the pages say of files, commands and checkpoints is so: links, options, defaults."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

import pixart_fn as px
from pixart_fn.checkpoint import manifest
from pixart_fn.cli import command
from pixart_fn.request import text_length

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "notebooks").rglob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as code hosts turn them into anchors."""
    titles = re.findall(r"^#+ (.*)$", without_code(page.read_text("utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pages
def test_every_link_leads_somewhere(page):
    for file, anchor in LINK.findall(without_code(page.read_text("utf-8"))):
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{page.name} links to {file}, which isn't there"
        assert ROOT in (target, *target.parents), f"{page.name} links to {file}, which is outside of the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{page.name} links to #{anchor}, and {target.name} has no such heading"


def commands(text: str) -> list[list[str]]:
    """The words after each `pixart-fn` of a page's shell blocks and of its quoted lines."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```$", text, re.M | re.S)
    lines = [line for block in blocks for line in re.split(r"\n|&&|\|", re.sub(r"\\\n", " ", block))]
    quoted = [part for code in re.findall(r"`([^`]+)`", without_code(text)) for part in code.split("&&")]
    words = [shlex.split(line, comments=True) for line in (*lines, *quoted) if "pixart-fn " in line]
    return [each[1:] for each in words if each and each[0].split("/")[-1] == "pixart-fn"]


@pages
def test_every_command_and_option_exists(page):
    for verb, *words in commands(page.read_text("utf-8")):
        if verb.startswith("--"):
            assert verb in ("--help", "--version")
            continue
        assert verb in command.commands, f"{page.name} has pixart-fn {verb}"
        own = command.commands[verb]
        known = {name for option in own.get_params(click.Context(own)) for name in option.opts}
        given = {word.split("=")[0] for word in words if word.startswith("--")}
        assert given <= known, f"{page.name}: pixart-fn {verb} has no {given - known}"


@pages
def test_a_page_has_one_title_and_begins_with_it(page):
    text = page.read_text("utf-8")
    if text.startswith("```{include}"):  # its title is that of the file that it shows
        return
    assert text.startswith("# ") and len(re.findall(r"^# ", without_code(text), re.M)) == 1


def test_there_are_links_and_commands_to_check():
    readme = PAGES[0].read_text("utf-8")
    assert len(LINK.findall(readme)) > 20 and len(commands(readme)) > 5


def test_the_readme_is_short():
    assert len(PAGES[0].read_text("utf-8").splitlines()) < 200


def test_the_defaults_in_the_readme_are_those_of_the_manifest():
    entries = {entry.name: entry for entry in manifest.entries()}
    nets = {name for name, entry in entries.items() if entry.kind == "controlnet"}
    params = px.load()
    own, tokens = params.config.call, text_length(params, None)
    assert f"| embedded, 128 px | {own.steps}, {own.guidance:g}, {tokens} |" in PAGES[0].read_text("utf-8")
    seen = set()
    for line in PAGES[0].read_text("utf-8").splitlines():
        if not re.match(r"\| `[\w-]+`", line):
            continue
        names, defaults, named, _ = (cell.strip() for cell in line.strip("|").split("|"))
        for name in re.findall(r"`([\w-]+)`", names):
            seen.add(name)
            entry = entries[name]
            assert defaults == f"{entry.steps}, {entry.guidance:g}, {entry.tokens}"
            takes = nets if entry.family == "alpha" and entry.steps == 20 else set()
            assert {*re.findall(r"`([\w-]+)`", named)} == takes
    assert seen == {name for name, entry in entries.items() if entry.kind in ("pipeline", "transformer", "adapter")}
