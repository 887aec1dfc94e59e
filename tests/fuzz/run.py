"""One input through one reader, with a watchdog for time and memory; a campaign of many."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import resource
import shutil
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from . import mutate
from .target import Target, check_sentence
from .targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
SECONDS = 5
MEMORY = 2**31
"""Bytes beyond what the process has when a campaign begins."""
BATCH = 100
"""Structures of hypothesis that are tried in a row."""


class TooLongError(BaseException):
    """An input took longer than SECONDS."""


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raise TooLongError after SECONDS of work, or a minute of waiting; where no Python runs, end the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TooLongError(f"it took more than {SECONDS} s of work, or a minute")

    limits = {signal.ITIMER_PROF: SECONDS, signal.ITIMER_REAL: 60, signal.ITIMER_VIRTUAL: 60}  # the last has no handler
    before = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    for timer, seconds in limits.items():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer in limits:
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def limit_memory() -> None:
    """Let the process grow by MEMORY at most, so that what takes more is a MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)


def fault(target: Target, content: bytes, folder: Path) -> str:
    """Read an input, and return what is wrong about how that ended; "" where it was read or refused as it should."""
    empty(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with watched():
                target.read(content, folder)
        except target.errors as error:
            try:
                check_sentence(str(error))
                apart = "take both from the same family" in str(error)  # of two files
                named = not target.named or apart or str(folder) in str(error)
                assert named, f"the sentence names no file: {error}"
            except AssertionError as wrong:
                return f"{type(error).__name__}: {wrong}\n{traceback.format_exc()}"
        except (Exception, TooLongError) as error:
            return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    return ""


def empty(folder: Path) -> None:
    """Remove what the last input left."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def mutated(target: Target, rng: random.Random, seeds: list[bytes]) -> bytes:
    """A damaged input."""
    content = rng.choice(seeds)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(target.mutations)(rng, content)
    if rng.random() < 0.03:  # two inputs in one
        other = rng.choice(seeds)
        content = content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]
    return content


def structures(target: Target, seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """JSON that has some of a valid file's keys and any values; for what is no JSON, the file with any bytes in it."""
    roots = []
    for content in seeds:
        with contextlib.suppress(ValueError):
            roots.append(json.loads(content))
    keys = sorted({key for root in roots for node, key in mutate.places(root) if isinstance(node, dict)})
    if not keys:
        pieces = st.tuples(st.sampled_from(seeds), st.binary(max_size=64), st.floats(0, 1), st.integers(0, 64))
        return pieces.map(lambda p: _replaced(*p))
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(mutate.NUMBERS[:30]),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(keys), inner, max_size=4)
        ),
        max_leaves=8,
    )
    changes = st.dictionaries(st.sampled_from(keys) | st.text(max_size=9), values, max_size=4)
    objects = st.tuples(st.sampled_from([r for r in roots if isinstance(r, dict)] or [{}]), changes)
    return objects.map(lambda p: json.dumps({**p[0], **p[1]}).encode("utf-8", "surrogatepass"))


def _replaced(content: bytes, new: bytes, where: float, size: int) -> bytes:
    at = int(where * len(content))
    return content[:at] + new + content[at + size :]


def inputs(target: Target, number: int) -> Iterator[bytes]:
    """Endless inputs that follow from a number: nine mutations for each structure of hypothesis."""
    rng, seeds = random.Random(number), list(target.seeds())
    yield from seeds
    while True:
        for _ in range(9 * BATCH):
            yield mutated(target, rng, seeds)
        yield from drawn(target, seeds, rng.randrange(2**32), BATCH)


def drawn(target: Target, seeds: list[bytes], number: int, count: int) -> list[bytes]:
    """Structures that hypothesis makes."""
    made: list[bytes] = []

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(structures(target, seeds))
    def collect(content: bytes) -> None:
        made.append(content)

    collect()
    return made


def campaign(name: str, minutes: float, number: int, out: Path) -> tuple[int, dict[str, str]]:
    """Try inputs for some time; what is found goes to files in a folder, one for each place in the code.

    Args:
        name: of the reader.
        minutes: how long.
        number: the seed.
        out: the folder.
    Returns:
        How many inputs were tried, and what was found, by the file.
    """
    target, found = TARGETS[name], {}
    out.mkdir(parents=True, exist_ok=True)
    current, end, count = out / f"{name}.current", time.monotonic() + 60 * minutes, 0
    limit_memory()
    folder = Path(tempfile.mkdtemp())
    for content in inputs(target, number):
        if time.monotonic() > end:
            break
        current.write_bytes(content)  # which stays when the process ends
        said = fault(target, content, folder)
        count += 1
        if said:
            lines = [line for line in said.splitlines() if line.startswith("  File ")]
            place = hashlib.sha256((said.split(":")[0] + "".join(lines[-3:])).encode()).hexdigest()[:8]
            file = out / f"{name}-{place}"
            if file.name not in found:
                found[file.name] = said
                file.write_bytes(content)
                file.with_suffix(".txt").write_text(said)
                print(f"{name}: {said.splitlines()[0][:300]} → {file}", flush=True)
    current.unlink(missing_ok=True)
    shutil.rmtree(folder)
    return count, found
