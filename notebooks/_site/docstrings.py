"""From the docstrings of this package to reStructuredText.

Args, Returns and Raises become fields, indented blocks become code, names in backticks become links where the reference
has them, and numbers of arXiv become links.
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path

SECTION = re.compile(r"(Args|Returns|Yields|Raises|Example):$")
ENTRY = re.compile(r"(\*{0,2}\w[\w., ]*): (.*)")
INLINE = re.compile(r"(`[^`]+`|https?://[^\s,;)]+|arXiv:\d{4}\.\d{4,5})")
DOCUMENTED = re.compile(r"^\.\. (?:auto|py:)\w+:: (px[\w.]*)", re.M)


def converted(docstring, link):
    """Convert the lines of a docstring; `link` gives the full name of what a name in backticks means, or None."""
    out = []
    for name, lines in sections(docstring):
        if name is None:
            out += prose(lines, link)
        elif name == "Example":
            out += ["", ".. rubric:: Example", "", *lines, ""]
        elif name in ("Args", "Raises"):
            field = {"Args": "param", "Raises": "raises"}[name]
            out += [f":{field} {key}: {inline(text, link)}" for key, text in entries(lines)]
        else:
            out += [f":{name.lower()}: {inline(' '.join(map(str.strip, lines)), link)}"]
    return [*out, ""]


def sections(docstring):
    """Yield (the heading of a section or None, its lines without their indentation)."""
    name, lines = None, []
    for line in docstring:
        if found := SECTION.fullmatch(line):
            yield name, textwrap.dedent("\n".join(lines)).splitlines()
            name, lines = found[1], []
        elif name and line and not line.startswith(" "):
            yield name, textwrap.dedent("\n".join(lines)).splitlines()
            name, lines = None, ["", line]
        else:
            lines.append(line)
    yield name, textwrap.dedent("\n".join(lines)).splitlines()


def entries(lines):
    """Yield (name, text) of a section of names, whose texts may go on in indented lines."""
    found = []
    for line in lines:
        if entry := ENTRY.fullmatch(line):
            found.append([entry[1].lstrip("*"), entry[2]])
        elif line.strip():
            found[-1][1] += " " + line.strip()
    return found


def prose(lines, link):
    """Convert paragraphs and lists, and mark indented blocks as code."""
    text = "\n".join(lines)
    out = []
    for block in re.findall(r"(?:^    .*\n?(?:\n*^    .*\n?)*)|(?:^(?:(?!    ).+)\n?(?:.+\n?)*)", text, re.M):
        if block.startswith("    "):
            out += [f".. code-block:: {language(block)}", "", *block.rstrip().splitlines(), ""]
        elif block.startswith(">>>"):
            out += [*block.splitlines(), ""]
        else:
            items = re.split(r"\n(?=- )", block.rstrip())
            out += [inline(" ".join(item.split()), link) for item in items] + [""]
    return out


def language(block):
    """Name the language of an indented block, which may be a formula."""
    try:
        ast.parse(textwrap.dedent(block))
    except SyntaxError:
        return "text"
    return "python"


def inline(text, link):
    """Convert what stands in a sentence."""
    out, parts = "", INLINE.split(text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            out += re.sub(r"([\\*`|_])", r"\\\1", part)
        else:
            before, after = out[-1:], parts[i + 1][:1]
            out += ("\\ " if before.isalnum() else "") + marked(part, link) + ("\\ " if after.isalnum() else "")
    return out


def marked(part, link):
    """Convert a name in backticks, an address, or a number of arXiv."""
    if part.startswith("http"):
        return f"`{part} <{part}>`__"
    if part.startswith("arXiv:"):
        return f"`{part} <https://arxiv.org/abs/{part[6:]}>`__"
    target = link(part[1:-1])
    return f":py:obj:`{part[1:-1]} <{target}>`" if target else f"``{part[1:-1]}``"


def linker(app, name, obj):
    """Make the function that finds what a name in the docstring of `name` means."""
    try:
        own = set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        own = set()
    places = [name, *(name.rsplit(".", i)[0] for i in range(1, name.count(".") + 1))]

    def link(word):
        word = re.sub(r"\(.*\)$", "", word)
        bare = word.removeprefix("px.")
        if bare in own or not re.fullmatch(r"[\w.]+", bare):
            return None
        full = (f"{place}.{bare}" for place in places if not word.startswith("px.") or place == "px")
        return next((each for each in full if each in app.documented and each != name), None)

    return link


def setup(app):
    """Convert every docstring that autodoc reads."""

    def read(app):
        pages = Path(app.srcdir).glob("reference/*.md")
        app.documented = {name for page in pages for name in DOCUMENTED.findall(page.read_text("utf-8"))}

    def convert(app, what, name, obj, options, lines):
        lines[:] = converted(list(lines), linker(app, name, obj))

    def names(app, what, name, obj, options, signature, returns):
        alias = re.compile(r"TypeAliasForwardRef\('([\w.]+)'\)")
        return tuple(each and alias.sub(r"\1", each) for each in (signature, returns))

    app.connect("builder-inited", read)
    app.connect("autodoc-process-signature", names)
    app.connect("autodoc-process-docstring", convert)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
