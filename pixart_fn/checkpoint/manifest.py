"""The released checkpoints, as weights/manifest.toml lists them: where each is, and what a call of it wants."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from .. import config as config_
from .. import solvers
from ..checks import check_type, shown
from ..config import Check, whole
from ..files import reading
from ..models import t5, transformer, vae
from ..params import MODELS, Call

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "manifest.toml"
FACTOR = 8
"""Pixels of a side that a latent covers in the VAE of every released checkpoint."""
VAES = {"alpha": vae.Config(), "sigma": vae.Config(sample_size=1024, scaling_factor=0.13025)}
"""The VAE of each family: Stable Diffusion's, and that of SDXL."""

Name: TypeAlias = Annotated[str, Check("of a-z, 0-9 and hyphens", lambda v: bool(re.fullmatch("[a-z0-9-]+", v)))]
Id: TypeAlias = Annotated[str, Check("owner/name", lambda v: bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", v)))]
File: TypeAlias = Annotated[str, Check("a file's name", lambda v: bool(re.fullmatch(r"\w[\w.-]*", v)))]
Time: TypeAlias = Annotated[float, Check("within 0 … 999", lambda v: 0 <= v <= 999)]
Scale: TypeAlias = Annotated[float, Check("of at least 1", lambda v: v >= 1)]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A table of the manifest, which says at its top what the fields mean.

    Raises:
        ValueError: a field is out of its range, or the fields contradict each other.
    """

    name: Name
    id: Id
    kind: Literal["pipeline", "transformer", "pth", "controlnet", "adapter"]
    family: Literal["alpha", "sigma"]
    side: Annotated[int, whole(16, 2**14)]
    scale: config_.Positive
    steps: Annotated[int, whole(1, 1000)]
    guidance: Scale
    tokens: Annotated[int, whole(1, 2**12)]
    solver: str
    licence: str
    licence_checked: bool
    pipeline: Id | None = None
    scheduler: Id | None = None
    revision: str | None = None
    files: tuple[File, ...] = ()
    layers: config_.Layers = 28
    conditions: bool = False
    times: tuple[Time, ...] | None = None

    def __post_init__(self) -> None:
        whole_ = self.kind == "pipeline"
        diffusers = self.kind in ("pipeline", "transformer")
        if whole_ is (self.pipeline is not None):
            raise ValueError(f"{self.name} must say pipeline where its kind isn't pipeline, and only there")
        if diffusers is bool(self.files):
            raise ValueError(f"{self.name} must say files where its kind isn't pipeline or transformer, and only there")
        if self.scheduler is not None and self.kind != "adapter":
            raise ValueError(f"{self.name} may say scheduler only where its kind is adapter")
        if self.revision is not None and self.kind == "transformer":
            raise ValueError(f"{self.name} may not say revision, as `load` takes the newest of a transformer")
        if self.times is not None and len(self.times) != self.steps:
            raise ValueError(f"{self.name} must say as many times as steps = {self.steps}, got {len(self.times)}")
        if self.solver not in solvers.SOLVERS:
            raise ValueError(f"{self.name} must say a solver of px.solvers, got {shown(self.solver)}")

    @property
    def call(self) -> Call:
        """What a call of it wants."""
        return Call(self.steps, self.guidance, self.tokens, self.times)

    @property
    def config(self) -> transformer.Config:
        """The configuration of its transformer."""
        return transformer.Config(
            num_layers=self.layers,
            sample_size=self.side // FACTOR,
            interpolation_scale=self.scale,
            use_additional_conditions=self.conditions,
        )

    def shapes(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """List the names and shapes of the tensors of each model that `load` reads of it; of an adapter, none."""
        configs = {"text_encoder": t5.Config(), "transformer": self.config, "vae": VAES[self.family]}
        used = {"pipeline": MODELS, "transformer": MODELS, "pth": ("transformer",)}.get(self.kind, ())
        return {name: MODELS[name].shapes(configs[name]) for name in used}

    def size(self) -> int | None:
        """Count the bytes of these tensors in float32, or return None where their names aren't known here."""
        found = self.shapes()
        return sum(4 * math.prod(shape) for each in found.values() for shape in each.values()) if found else None


def entries() -> tuple[Entry, ...]:
    """Read the manifest of this installation.

    Returns:
        The entries, in the order of the file.
    Raises:
        FileNotFoundError: the installation lacks it.
        ValueError: it isn't one.
    """
    return _entries(_path())


@functools.lru_cache(maxsize=1)
def _entries(path: Path) -> tuple[Entry, ...]:
    return read(path)


def _path() -> Path:
    package = Path(__file__).parents[1]
    for file in (package / "_weights" / FILE, package.parent / "weights" / FILE):  # installed; a source tree
        if file.is_file():
            return file
    raise FileNotFoundError(f"this installation lacks {FILE}, the list of released checkpoints: reinstall it")


def read(path: Path) -> tuple[Entry, ...]:
    """Read a manifest.

    Args:
        path: a TOML file whose every table is a [[checkpoint]].
    Returns:
        The entries, in the order of the file.
    Raises:
        OSError: the file can't be read.
        ValueError: it isn't TOML, a field is unknown, missing or out of its range, or two entries share a name.
    """
    try:
        content: dict[str, Any] = tomllib.loads(reading.content(path).decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} isn't TOML: {error}") from None
    tables = content.get("checkpoint")
    if [*content] != ["checkpoint"] or not isinstance(tables, list):
        raise ValueError(f"{path} must hold tables [[checkpoint]] and nothing else, got {shown([*content])}")
    found = tuple(_entry(table, f"{path}, table {i + 1}:") for i, table in enumerate(tables))
    names = [entry.name for entry in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path} has two entries of the name {shown(twice[0])}")
    return found


def _entry(table: object, where: str) -> Entry:
    """Make an entry of a table of the manifest, strictly."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} it must be a table, got {shown(table)}")
    needed = [each.name for each in dataclasses.fields(Entry) if each.default is dataclasses.MISSING]
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"{where} it must say {', '.join(missing)}")
    if notes := [name for name in table if name.startswith("_")]:  # which a config.json may have
        raise ValueError(f"{where} unknown field {shown(notes[0])}")
    try:
        return config_.read(Entry, table, fixed={}, component=where)
    except ValueError as error:
        raise ValueError(str(error).replace(": config:", ":")) from None


def find(name: str) -> Entry:
    """Find an entry.

    Args:
        name: an entry's name, or the hub id of one that doesn't share its repository.
    Returns:
        The entry.
    Raises:
        TypeError: name isn't a text.
        ValueError: there is no such entry; the nearest are named.
    """
    check_type("name", name, str, "the name or hub id of a released checkpoint")
    known = entries()
    found = [entry for entry in known if entry.name == name] or [entry for entry in known if entry.id == name]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(entry.name for entry in found)
        raise ValueError(f"the repository {name} holds several checkpoints; name one of {names}")
    words = [each for entry in known for each in (entry.name, entry.id)]
    near = difflib.get_close_matches(name[:100], words, 1)
    advice = f"the nearest is {near[0]}" if near else f"there are {', '.join(entry.name for entry in known)}"
    raise ValueError(f"name must be that of a released checkpoint, got {shown(name)}; {advice}")


def call(id: str) -> Call | None:
    """Find what a call of a released checkpoint wants.

    Args:
        id: the hub id that a pipeline or a transformer was loaded from.
    Returns:
        The Call, or None for an id that isn't in the manifest as a pipeline or a transformer.
    """
    return next((e.call for e in entries() if e.id == id and e.kind in ("pipeline", "transformer")), None)
