"""What the verbs share: refusing what is empty, the exit status in the help, lists of values, completion of files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.shell_completion import CompletionItem

from ..backend import device, runtime

if TYPE_CHECKING:  # it is generic from click 8.2 on
    Type: TypeAlias = click.ParamType[Any]
else:
    Type = click.ParamType

STATUS = (
    ("0", "Done."),
    ("1", "The memory, the disk, the network or the device failed, or doctor found a mistake."),
    ("2", "Something that was given can't be used; one sentence says what."),
    ("130", "Stopped by Ctrl-C."),
)
EMPTY = ("negative", "caption")
"""Options that may be empty."""


class Verb(click.Command):
    """A verb whose options and arguments mustn't be empty texts, and whose help lists the exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, or say which option is empty."""
        for each in self.params:
            if ctx.params.get(each.name or "") == "" and each.name not in EMPTY:
                name = each.opts[0] if isinstance(each, click.Option) else each.metavar or (each.name or "").upper()
                raise click.UsageError(f"{name} must not be empty", ctx)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit status."""
        with formatter.section("Exit status"):
            formatter.write_dl([*STATUS])


class Computing(Verb):
    """A verb that computes with MindSpore, on a device that `--device` names."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--device"],
                type=click.Choice([name.lower() for name in device.NAMES], case_sensitive=False),
                show_default=f"{runtime.CHOICE}, or the CPU",
                help="Device to compute on.",
            )
        )

    def invoke(self, ctx: click.Context) -> Any:
        """Run it on that device, or say what the device lacks here."""
        named = device.named(ctx.params.pop("device") or "")
        if named is not None:
            runtime.choose_later(named)
        return super().invoke(ctx)


class Several(Type):
    """One value, or several with commas between them, which become a list."""

    def __init__(self, each: Type, known: tuple[str, ...] = ()) -> None:
        self.each, self.known, self.name = each, known, each.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Convert each of them."""
        if not isinstance(value, str) or "," not in value:
            return self.each.convert(value, param, ctx)
        return [self.each.convert(part.strip(), param, ctx) for part in value.split(",")]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete the last of them."""
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for name in self.known if name.startswith(last)]


def file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def folder(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the name of a folder."""
    return [CompletionItem(incomplete, type="dir")]
