"""The page in Chromium: `pytest -n 0 -m browser`, where gradio, playwright and Debian's chromium are installed."""

from __future__ import annotations

import io
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

import pixart_fn as px
from pixart_fn.app import Limits, page
from pixart_fn.app.serving import launch
from pixart_fn.picture import read_settings

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")]
MINUTE = 60_000  # milliseconds; the first picture compiles


@pytest.fixture(scope="module")
def address():
    """Where the page of the embedded checkpoint and its ControlNet is."""
    pytest.importorskip("gradio", reason="the extra `app` is missing")
    limits = Limits(steps=60, pixels=40_000)
    built = page(px.load(), controlnet=px.controlnet.load(), limits=limits)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch(built, "127.0.0.1", port, limits)
    yield f"http://127.0.0.1:{port}"
    built.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--enable-unsafe-swiftshader"])
        yield chromium
        chromium.close()


@pytest.fixture
def tab(browser, address):
    """A new visitor's page, which must ask no other server for anything."""
    opened = browser.new_page(viewport={"width": 1280, "height": 1000})
    hosts = set()
    opened.on("request", lambda request: hosts.add(request.url.split("/")[2] if "://" in request.url else ""))
    opened.goto(address)
    opened.get_by_label("Prompt", exact=True).wait_for(timeout=MINUTE)
    yield opened
    assert hosts <= {"", address.split("/")[2]}
    opened.close()


def ask(tab, prompt: str) -> None:
    tab.get_by_label("Prompt", exact=True).fill(prompt)
    tab.keyboard.press("Enter")


def finished(tab) -> None:
    tab.locator("#stage img[alt='The picture that was drawn']").wait_for(timeout=MINUTE)


def downloaded(tab, folder):
    with tab.expect_download() as found:
        tab.locator("#download").click()
    path = folder / found.value.suggested_filename
    found.value.save_as(path)
    return path


def more_steps(tab, steps: int) -> None:
    tab.get_by_role("button", name="More settings").click()
    tab.locator("#steps input[type=number]").fill(str(steps))
    tab.locator("#steps input[type=number]").press("Tab")


def test_a_prompt_gives_previews_that_change_and_a_picture_that_show_reads(tab, tmp_path, capsys):
    tab.evaluate("""() => { window.seen = new Set();
        new MutationObserver(() => { const img = document.querySelector('#stage img');
            if (img && img.alt.startsWith('What')) window.seen.add(img.src); }
        ).observe(document.body, {childList: true, subtree: true, attributes: true}); }""")
    ask(tab, "a cat on a blue background")
    finished(tab)
    assert tab.evaluate("window.seen.size") >= 3
    file = downloaded(tab, tmp_path)
    from pixart_fn import cli

    capsys.readouterr()
    assert cli.main(["show", str(file)]) == 0
    call = capsys.readouterr().out
    assert "'a cat on a blue background'" in call
    again = eval(call, {"px": px})
    assert np.array_equal(np.asarray(again), np.asarray(Image.open(file)))


def test_cancel_stops_and_the_next_drawing_works(tab):
    more_steps(tab, 60)
    ask(tab, "a dog")
    tab.locator("#stage progress").wait_for(timeout=MINUTE)
    tab.locator("#cancel").click()
    tab.get_by_text("Cancelled. The next drawing can begin.").wait_for(timeout=MINUTE)
    tab.locator("#steps input[type=number]").fill("3")
    ask(tab, "a dog")
    finished(tab)
    assert tab.locator("#details").inner_text().count("Steps") == 1


def test_an_error_is_one_sentence(tab):
    ask(tab, " ")
    tab.locator("#stage p.wrong").wait_for(timeout=MINUTE)
    assert tab.locator("#stage").inner_text().strip() == "The prompt is empty; write what to draw."
    assert "Traceback" not in tab.locator("body").inner_text()
    ask(tab, "a red circle")
    finished(tab)


def test_what_is_painted_over_is_drawn_anew(tab, tmp_path):
    source = tmp_path / "photo.png"
    Image.new("RGB", (128, 128), (40, 160, 60)).save(source)
    tab.get_by_role("button", name="Draw from a picture").click()
    tab.locator("#source input[type=file]").first.set_input_files(str(source))
    canvas = tab.locator("#editor canvas").first
    canvas.wait_for(timeout=MINUTE)
    tab.wait_for_timeout(2000)
    tab.locator("#editor button[aria-label='Brush'], #editor button[title='Brush']").first.click()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 10, y)
    tab.mouse.down()
    tab.mouse.move(x + 10, y, steps=5)
    tab.mouse.up()
    ask(tab, "a red circle")
    finished(tab)
    file = downloaded(tab, tmp_path)
    settings = read_settings(file)
    assert settings["init"].startswith("init-") and settings["mask"].startswith("mask-")
    links = tab.locator("#beside a[download]").evaluate_all("links => links.map(link => link.href)")
    init, mask = (
        np.asarray(
            Image.open(io.BytesIO(tab.request.get(next(link for link in links if settings[name] in link)).body()))
        )
        for name in ("init", "mask")
    )
    drawn, white = np.asarray(Image.open(file)), mask > 127
    assert white[64, 64] and 0.001 < white.mean() < 0.6
    assert np.abs(np.median(init, (0, 1)) - (40, 160, 60)).max() <= 2
    assert np.array_equal(drawn[~white], init[~white]) and not np.array_equal(drawn, init)


def test_a_narrow_screen_shows_everything_without_scrolling_sideways(tab):
    tab.set_viewport_size({"width": 390, "height": 844})
    for name in ("More settings", "Draw from a picture", "Follow the edges of a picture", "LoRA"):
        tab.get_by_role("button", name=name).click()
    ask(tab, "a yellow star")
    finished(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in ("#draw", "#cancel", "#style", "#size", "#seed", "#download", "#editor"):
        box = tab.locator(selector).first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390, selector


def test_the_keyboard_alone_draws_and_every_control_has_a_name(tab):
    tab.get_by_label("Prompt", exact=True).focus()
    tab.keyboard.type("a blue square")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "draw"
    tab.keyboard.press("Enter")
    finished(tab)
    nameless = tab.evaluate("""() => [...document.querySelectorAll('input, textarea, button, [role=listbox]')]
        .filter(e => e.offsetParent && e.type != 'file' && !(e.labels && e.labels.length) && !e.ariaLabel && !e.title
            && !e.textContent.trim() && !e.getAttribute('aria-labelledby')).map(e => e.outerHTML.slice(0, 200))""")
    assert nameless == []
