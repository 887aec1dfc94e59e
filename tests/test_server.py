"""The server of notebooks/howto/threads_and_servers.md: it draws, refuses, and stops where its caller has gone."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny
from PIL import Image

import pixart_fn as px

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "notebooks/howto/threads_and_servers.md").read_text("utf-8")
PAINTER, SERVER, SEVERAL = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def page() -> dict:
    """The names of the page's first block."""
    space: dict = {}
    exec(PAINTER, space)
    return space


@pytest.fixture
def ended(monkeypatch) -> list[str]:
    """How each call of `generate` ended, in the order of their ends: "drawn", or the name of an exception."""
    generate, found = px.generate, []

    def watched(*args, **options):
        try:
            result = generate(*args, **options)
        except Exception as error:
            found.append(type(error).__name__)
            raise
        found.append("drawn")
        return result

    monkeypatch.setattr(px, "generate", watched)
    return found


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_requests_at_once_get_what_they_would_get_alone(page):
    async def both():
        painter = page["Painter"](tiny.params())
        return await asyncio.gather(*(painter.draw("a cute cat", seed, steps=2) for seed in (0, 1)))

    for seed, drawn in enumerate(asyncio.run(both())):
        alone = px.generate(tiny.params(), "a cute cat", px.key(seed), steps=2, progress=False)
        assert np.array_equal(pixels(drawn), np.asarray(alone))


def test_a_cancelled_request_stops_between_steps_and_one_that_waits_is_never_drawn(page, ended, monkeypatch):
    started, generate = asyncio.Event(), px.generate

    async def story():
        loop = asyncio.get_running_loop()

        def watched(*args, on_step, **options):
            def both(info):
                loop.call_soon_threadsafe(started.set)
                on_step(info)

            return generate(*args, on_step=both, **options)

        monkeypatch.setattr(px, "generate", watched)
        painter = page["Painter"](tiny.params())
        drawing = asyncio.create_task(painter.draw("a cute cat", steps=900))
        await asyncio.wait([drawing, asyncio.create_task(started.wait())], return_when=asyncio.FIRST_COMPLETED)
        assert started.is_set() or drawing.result()
        waiting = asyncio.create_task(painter.draw("the big dog", steps=900))
        await asyncio.sleep(0)
        assert painter.waiting == 2
        for task in (drawing, waiting):
            task.cancel()
        after = await painter.draw("a red apple", steps=1)
        assert drawing.cancelled() and waiting.cancelled() and painter.waiting == 0
        return after

    assert pixels(asyncio.run(story())).shape == (16, 16, 3)
    assert ended == ["Stopped", "drawn"]


def test_what_does_not_fit_or_is_wrong_is_refused_before_it_waits(page, ended):
    async def story():
        tight = page["Painter"](tiny.params(), memory=2**20)
        with pytest.raises(MemoryError, match=r"^this picture takes 0\.\d GiB, and 0\.0 are allowed$"):
            await tight.draw("a cute cat")
        full = page["Painter"](tiny.params(), most=1)
        with pytest.raises(ValueError, match="height must be divisible by 4"):
            await full.draw("a cute cat", height=18)
        first = asyncio.create_task(full.draw("a cute cat", steps=1))
        await asyncio.sleep(0)
        with pytest.raises(page["Busy"], match=r"^1 requests wait already"):
            await full.draw("the big dog", steps=1)
        await first

    asyncio.run(story())
    assert ended == ["drawn"]


def test_the_endpoint_of_fastapi(tmp_path, monkeypatch, ended):
    pytest.importorskip("fastapi", reason="the page is for those who have FastAPI")
    client = pytest.importorskip("fastapi.testclient", reason="its client needs httpx")
    (tmp_path / "painter.py").write_text(PAINTER, "utf-8")
    (tmp_path / "server.py").write_text(SERVER, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(px, "load", lambda: tiny.params())
    import server

    with client.TestClient(server.app) as http:
        found = http.get("/picture", params={"prompt": "a cute cat", "steps": 2, "seed": 3})
        assert found.status_code == 200 and found.headers["content-type"] == "image/png"
        alone = px.generate(tiny.params(), "a cute cat", px.key(3), steps=2, progress=False)
        assert np.array_equal(pixels(found.content), np.asarray(alone))
        wrong = http.get("/picture", params={"prompt": "a cute cat", "height": 18})
        assert wrong.status_code == 422 and "divisible by 4" in wrong.json()["detail"]
        assert http.get("/picture", params={"prompt": "a cat", "steps": 51}).status_code == 422
        server.app.state.painter.most = 0
        assert http.get("/picture", params={"prompt": "a cute cat"}).status_code == 503
        server.app.state.painter.most = 8

        async def gone(request):
            return True

        monkeypatch.setattr(server.Request, "is_disconnected", gone)
        assert http.get("/picture", params={"prompt": "a cute cat", "steps": 50}).status_code == 499
        server.app.state.painter.thread.shutdown()
    assert "Stopped" in ended or ended.count("drawn") == 3  # it may be cancelled while it waits


@pytest.mark.slow
def test_processes_that_are_spawned_draw(tmp_path):
    px.save(tiny.params(), tmp_path / "pipeline")
    assert SEVERAL.count("px.load()") == SEVERAL.count("Pool(2,") == 1
    code = SEVERAL.replace("px.load()", 'px.load("pipeline")').replace("Pool(2,", "Pool(1,")  # one compiles
    (tmp_path / "several.py").write_text(code, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "several.py"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    for seed in range(4):
        alone = px.generate(tiny.params(), "a cat", px.key(seed), steps=4, progress=False)
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"cat-{seed}.png")), np.asarray(alone))
