"""The page in Chromium: `pytest -n 0 -m browser`, where gradio, playwright and Debian's chromium are installed."""

from __future__ import annotations

import io
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import pixart_fn as px
from pixart_fn import cli
from pixart_fn.app import Limits, page
from pixart_fn.app.serving import launch
from pixart_fn.picture import read_settings

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")]
LORA = Path(__file__).resolve().parents[1] / "weights/emoji/lcm_lora/pytorch_lora_weights.safetensors"
WAITING = 2
MINUTE = 60_000  # milliseconds; the first picture compiles


@pytest.fixture(scope="module")
def address():
    """Where the page of the embedded checkpoint and its ControlNet is."""
    pytest.importorskip("gradio", reason="the extra `app` is missing")
    limits = Limits(steps=300, pixels=40_000, waiting=WAITING)
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


def test_a_prompt_gives_previews_that_change_and_a_picture_that_show_reads(tab, drawn_again):
    tab.evaluate("""() => { window.seen = new Set();
        new MutationObserver(() => { const img = document.querySelector('#stage img');
            if (img && img.alt.startsWith('What')) window.seen.add(img.src); }
        ).observe(document.body, {childList: true, subtree: true, attributes: true}); }""")
    ask(tab, "a cat on a blue background")
    finished(tab)
    assert tab.evaluate("window.seen.size") >= 3
    call, settings, _ = drawn_again()
    assert settings["prompt"] in call and settings["prompt"] == "a cat on a blue background"


def test_the_command_ends_by_ctrl_c_while_it_draws(browser, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "pixart_fn", "app", "--port", str(port), "--lora", str(LORA), "--lora-weight", "0.5"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout.readline() == f"The page is at http://127.0.0.1:{port} and ends with Ctrl-C.\n"
        opened = browser.new_page()
        opened.goto(f"http://127.0.0.1:{port}")
        opened.get_by_label("Prompt", exact=True).wait_for(timeout=MINUTE)
        more_steps(opened, 100)
        ask(opened, "a cat")
        opened.locator("#stage progress").wait_for(timeout=MINUTE)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        opened.close()


def test_cancel_stops_and_the_next_drawing_works(tab):
    more_steps(tab, 60)
    ask(tab, "a dog")
    tab.locator("#stage progress").wait_for(timeout=MINUTE)
    seed = tab.locator("#seed input").input_value()
    ask(tab, "a cat")  # which changes nothing while the first is drawn
    tab.locator("#stage p").get_by_text(re.compile("Step [3-5]. of 60")).wait_for(timeout=MINUTE)
    assert tab.locator("#seed input").input_value() == seed
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


def beside(tab, name):
    """Download one of the files that a picture's settings name."""
    links = tab.locator("#beside a[download]").evaluate_all("links => links.map(link => link.href)")
    return tab.request.get(next(link for link in links if name in link)).body()


@pytest.fixture
def drawn_again(tab, tmp_path, monkeypatch, capsys):
    """What `show` prints of the picture on the page, run where nothing lies but the files that the page gives."""

    def run():
        file = downloaded(tab, tmp_path)
        settings = read_settings(file)
        monkeypatch.chdir(tmp_path)
        for name in {"init", "mask", "control"} & {*settings}:
            (tmp_path / settings[name]).write_bytes(beside(tab, settings[name]))
        capsys.readouterr()
        assert cli.main(["show", str(file)]) == 0
        call, said = capsys.readouterr()
        assert said == ""
        again = np.asarray(eval(call, {"px": px}))
        assert np.array_equal(again, np.asarray(Image.open(file)))
        return call, settings, again

    return run


def uploaded(tab, section: str, label: str, file) -> None:
    tab.get_by_role("button", name=label).click()
    tab.locator(f"{section} input[type=file]").first.set_input_files(str(file))


def test_what_is_painted_over_is_drawn_anew(tab, tmp_path, drawn_again):
    source = tmp_path / "photo.png"
    Image.new("RGB", (128, 128), (40, 160, 60)).save(source)
    uploaded(tab, "#source", "Draw from a picture", source)
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
    _, settings, drawn = drawn_again()
    init, mask = (np.asarray(Image.open(io.BytesIO(beside(tab, settings[name])))) for name in ("init", "mask"))
    white = mask > 127
    assert white[64, 64] and 0.001 < white.mean() < 0.6
    assert np.abs(np.median(init, (0, 1)) - (40, 160, 60)).max() <= 2
    assert np.array_equal(drawn[~white], init[~white]) and not np.array_equal(drawn, init)


def test_a_whole_picture_is_drawn_from(tab, tmp_path, drawn_again):
    Image.new("RGB", (200, 150), (200, 40, 40)).save(tmp_path / "photo.jpg")
    uploaded(tab, "#source", "Draw from a picture", tmp_path / "photo.jpg")
    tab.locator("#editor canvas").first.wait_for(timeout=MINUTE)
    ask(tab, "a blue square")
    finished(tab)
    call, settings, _ = drawn_again()
    assert call.startswith("px.edit.image_to_image(") and "mask" not in settings


def test_a_broken_picture_is_one_sentence(tab, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"no picture")
    uploaded(tab, "#source", "Draw from a picture", tmp_path / "photo.png")
    tab.get_by_text("'photo.png' is not a whole PNG, JPEG or WebP picture.").wait_for(timeout=MINUTE)


def test_the_edges_of_a_picture_are_followed(tab, tmp_path, drawn_again):
    picture = Image.new("RGB", (128, 128), "white")
    picture.paste((200, 30, 30), (32, 32, 96, 96))
    picture.save(tmp_path / "square.png")
    uploaded(tab, "#control", "Follow the edges of a picture", tmp_path / "square.png")
    tab.locator("#edge_map img").wait_for(timeout=MINUTE)
    ask(tab, "a red square")
    finished(tab)
    call, settings, _ = drawn_again()
    assert "px.controlnet.load()" in call and {"control", "control_sha256", "control_scale"} <= {*settings}


def test_a_lora_is_named_and_drawn_again_with_it(tab, tmp_path, drawn_again):
    shutil.copy(LORA, tmp_path / "fast.safetensors")
    uploaded(tab, "#lora", "LoRA", tmp_path / "fast.safetensors")
    tab.get_by_text("fast").first.wait_for(timeout=MINUTE)
    more_steps(tab, 4)
    ask(tab, "a dog")
    finished(tab)
    call, settings, _ = drawn_again()
    assert "px.lora.merge(px.load(), px.lora.load('fast.safetensors', sha256=" in call
    assert settings["lora"] == "fast.safetensors" and len(settings["lora_sha256"]) == 64
    assert "fast.safetensors" in tab.locator("#details").inner_text()


def test_the_gallery_shows_how_the_chosen_picture_was_drawn(tab, tmp_path):
    for prompt in ("a cat", "a yellow star"):
        ask(tab, prompt)
        finished(tab)
        tab.locator("#details").get_by_text(prompt, exact=True).wait_for(timeout=MINUTE)
    newest = tab.locator("#stage img").get_attribute("src")
    tab.locator("#gallery button.thumbnail-item").nth(1).click()
    tab.locator("#details").get_by_text("a cat", exact=True).wait_for(timeout=MINUTE)
    assert tab.locator("#stage img").get_attribute("src") != newest
    assert read_settings(downloaded(tab, tmp_path))["prompt"] == "a cat"


@pytest.fixture
def others(browser, address):
    """Visitors who draw so long that all others wait."""
    opened = [browser.new_page() for _ in range(WAITING)]
    for each in opened:
        each.goto(address)
        each.get_by_label("Prompt", exact=True).wait_for(timeout=MINUTE)
        more_steps(each, 300)
        ask(each, "a dog")
        each.locator("#stage p").get_by_text("of 300" if each is opened[0] else "Waiting for").wait_for(timeout=MINUTE)
    yield opened
    for each in opened:
        each.close()


def test_a_full_line_is_one_sentence_and_a_closed_tab_leaves_it(others, tab):
    ask(tab, "a cat")
    tab.locator("#stage p.wrong").wait_for(timeout=MINUTE)
    said = f"{WAITING} drawings wait already, which is the most; try again in a while."
    assert tab.locator("#stage").inner_text().strip() == said
    others[1].locator("#cancel").click()
    others[1].get_by_text("Cancelled. The next drawing can begin.").wait_for(timeout=MINUTE)
    others[0].locator("#stage p").get_by_text("of 300").wait_for(timeout=MINUTE)
    others[0].close()
    ask(tab, "a cat")
    finished(tab)


def test_a_narrow_screen_shows_everything_without_scrolling_sideways(tab):
    tab.set_viewport_size({"width": 390, "height": 844})
    for name in ("More settings", "Draw from a picture", "Follow the edges of a picture", "LoRA"):
        tab.get_by_role("button", name=name).click()
    ask(tab, "a yellow star")
    finished(tab)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    for selector in ("#draw", "#cancel", "#style", "#size", "#seed", "#download", "#source"):
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
