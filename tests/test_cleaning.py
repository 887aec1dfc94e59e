"""Cleaned captions: the same as before each rule was made linear, and bounded whatever is typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pixart_fn.models import cleaning

GOLDEN = json.loads((Path(__file__).parent / "reference" / "cleaning.json").read_text("utf-8"))
"""Texts, and what the rules made of them when each was one regular expression, some of quadratic time (commit
25b5313); drawn at random from parts of addresses, markup, numbers and symbols, and 400 characters of each bad unit."""


def test_every_rule_gives_what_it_gave():
    wrong = {text: (cleaning.clean(text), old) for text, old in GOLDEN.items() if cleaning.clean(text) != old}
    assert not wrong and len(GOLDEN) == 700


def test_the_golden_texts_reach_every_rule(monkeypatch):
    changed, sub = set(), re.sub

    def watched(pattern, replacement, text):
        result = sub(pattern, replacement, text)
        if result != text:
            changed.add(pattern)
        return result

    monkeypatch.setattr(re, "sub", watched)
    for text in GOLDEN:
        cleaning.clean(text)
    rules = {pattern for pattern, *_ in cleaning._SYMBOLS + cleaning._LEFTOVERS}
    assert rules <= changed


@pytest.mark.parametrize("clean", [True, False])
def test_a_long_caption_is_cut_with_a_warning(monkeypatch, clean):
    seen, once = [], cleaning._clean_once
    monkeypatch.setattr(cleaning, "_clean_once", lambda text: (seen.append(len(text)), once(text))[1])
    with pytest.warns(UserWarning, match=r"a prompt of 3000001 characters was cut to the first 10000$"):
        text = cleaning.prepare("  " + "a " * 1_500_000 + "b", clean)
    assert text == ("a " * 5000).strip()
    assert max(seen, default=0) <= cleaning.LONGEST


@pytest.mark.filterwarnings("error")
def test_white_space_around_a_caption_doesnt_count():
    longest = "cat " * (cleaning.LONGEST // 4 - 1) + "dogs"
    assert cleaning.prepare(" " * 10**6 + longest + "\n" * 10**6, clean=True) == longest


def test_broken_markup_is_read_so_often(monkeypatch):
    """Each "<a " looks for its end in all that follows: counted here, since a clock would say it on some machines."""
    read, parse = [0], cleaning.HTMLParser.parse_starttag

    def counted(self, i):
        end = parse(self, i)
        read[0] += len(self.rawdata) - i if end < 0 else 0
        return end

    monkeypatch.setattr(cleaning.HTMLParser, "parse_starttag", counted)
    for unit in ("<a ", "<a/", "<a b='>' ", "<a b="):
        read[0] = 0
        cleaning.clean(unit * (cleaning.LONGEST // len(unit)))
        assert cleaning.LONGEST < read[0] <= 2 * (cleaning.MOST_WASTED + cleaning.LONGEST)


def test_deep_markup_is_closed_once(monkeypatch):
    popped = [0]

    class Open(list):
        def pop(self):
            popped[0] += 1
            return super().pop()

        def __contains__(self, tag):
            raise AssertionError("a search through all open tags for each end tag")

        __iter__ = None

    start = cleaning._Visible.__init__
    monkeypatch.setattr(cleaning._Visible, "__init__", lambda self: (start(self), setattr(self, "open", Open()))[0])
    assert cleaning.clean("<b>" * 100 + "x</i>" * 50 + "</b>" * 100 + "cat") == "x" * 50 + "cat"
    assert popped[0] == 100


def test_an_address_is_looked_for_once_in_each_run(monkeypatch):
    tried = []

    class Counted:
        pattern = cleaning._DOMAIN

        def match(self, text, position):
            tried.append(position)
            return self.pattern.match(text, position)

    monkeypatch.setattr(cleaning, "_DOMAIN", Counted())
    assert cleaning._without_addresses("a." * 1000 + " b.com", "https?") == "a." * 1000 + " "
    assert tried == [0, 2001]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("&#" + "1" * 5000 + "; cat", "\N{REPLACEMENT CHARACTER} cat"),
        ("&#" + "0" * 5000 + "99;at", "cat"),
        ("＆＃" + "9" * 5000 + "x cat", "\N{REPLACEMENT CHARACTER}x cat"),
        ('<a b="&#' + "1" * 5000 + ';">cat</a>', "cat"),
    ],
    ids=["decimal", "zeros", "full width", "in a tag"],
)
def test_a_number_that_python_refuses_is_no_character(text, cleaned):
    assert cleaning.clean(text) == cleaned
