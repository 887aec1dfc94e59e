"""`pixart-fn train`: train as a recipe says, or go on where its folder stands."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..backend import workers as workers_
from ..backend.runtime import settle_on_cpu
from .console import note, result
from .importing import importing
from .verb import Computing, file, folder

if TYPE_CHECKING:
    from types import ModuleType

    from ..backend.workers import Workers
    from ..train.recipe import Recipe


class Fields(Computing):
    """A command whose help lists the fields of a recipe, and which says how an option that is one is given."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the fields, by their sections."""
        fields = _recipes().fields()
        formatter.write_paragraph()
        formatter.write_text(
            'The fields of a recipe ("none" says what holds if a field isn\'t given; data.path and run.out must be):'
        )
        for section in dict.fromkeys(each.name.partition(".")[0] for each in fields):
            with formatter.section(f"[{section}]"):
                own = [each for each in fields if each.name.startswith(f"{section}.")]
                formatter.write_dl([(each.name, f"{each.help}  [{each.kind}{_default(each.default)}]") for each in own])
        super().format_epilog(ctx, formatter)

    def advice(self, word: str) -> str | None:
        """Say how to give what isn't an option, where it is a field of a recipe."""
        name = word.replace("-", "_")
        found = [each.name for each in _recipes().fields() if name in (each.name, each.name.partition(".")[2])]
        return f"--set {found[0]}=… gives it" if found else None


def _default(value: object) -> str:
    if value is None or value in ("", ()):
        return ""
    return f"; default: {str(value).lower() if isinstance(value, bool) else value}"


def _recipes() -> ModuleType:
    with importing():
        from ..train import recipe

    return recipe


@click.command(cls=Fields)
@click.argument("recipe", required=False, shell_complete=file)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field, such as run.steps=500, or take it out: run.minutes=none.",
)
@click.option("--data", metavar="DIR", shell_complete=folder, help="Folder to train on; the same as data.path.")
@click.option("--out", metavar="DIR", shell_complete=folder, help="Folder of the run; the same as run.out.")
@click.option("--list", "listed", is_flag=True, help="List the recipes that come with the package.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")
def train(
    recipe: str | None, changes: tuple[str, ...], data: str | None, out: str | None, listed: bool, quiet: bool
) -> None:
    """Train as a recipe says.

    RECIPE is a .toml file, or the name of a recipe that comes with the package. The same command goes on where it was
    stopped. The values of --set are written as in TOML, but texts need no quotes.

    `msrun … python -m pixart_fn train …` trains with several workers.
    """
    if listed:
        if recipe or changes or data or out:
            raise click.UsageError("--list takes no recipe and no other options than --quiet")
        for name, line in _recipes().names().items():
            result(f"{name:<32}{line}")
        return
    given = {"data.path": data, "run.out": out}
    made = _read(recipe, changes, {name: value for name, value in given.items() if value is not None})
    settle_on_cpu()
    workers = workers_.start()
    shown = workers.rank == 0 and not quiet
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: note(str(message)) if shown else None
        _run(made, workers, shown)


def _read(recipe: str | None, changes: tuple[str, ...], given: dict[str, Any]) -> Recipe:
    recipes = _recipes()
    if recipe is None:
        raise ValueError("name a recipe; pixart-fn train --list lists those that come with the package")
    try:
        assigned = recipes.assigned(changes)
        for name, option in (("data.path", "--data"), ("run.out", "--out")):
            if name in assigned and name in given:
                raise ValueError(f"{option} and --set {name} are the same; give one of them")
        made: Recipe = recipes.read(recipe, assigned | given)
    except ValueError as error:
        said = str(error).replace("must say data.path", "must say data.path: --data DIR")
        raise ValueError(said.replace("must say run.out", "must say run.out: --out DIR")) from error
    return made


def _run(recipe: Recipe, workers: Workers, shown: bool) -> None:
    from ..train import job, loop

    out = Path(recipe.run.out).expanduser()
    try:
        state = job.run(recipe, workers=workers, progress=shown)
    except KeyboardInterrupt:
        if shown and (out / loop.STATE).exists():
            note(
                "stopped; the same command goes on from here, and with --set run.minutes=0 it writes the model as it is"
            )
        raise
    if not shown:
        return
    if state.step < recipe.run.steps:
        note(f"stopped after step {state.step} of {recipe.run.steps}; the same command goes on from here")
    result(str(out / job.FOLDERS[recipe.model.train]))
