"""`pixart-fn completion`: print what lets a shell complete the command."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from .console import result
from .verb import Verb

SHELLS = ("bash", "zsh", "fish")


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what lets a shell complete verbs, options and files.

    \b
    Add to ~/.bashrc:  eval "$(pixart-fn completion bash)"
    Add to ~/.zshrc:   eval "$(pixart-fn completion zsh)"
    For fish, once:    pixart-fn completion fish > ~/.config/fish/completions/pixart-fn.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    for line in found(context.find_root().command, {}, "pixart-fn", "_PIXART_FN_COMPLETE").source().splitlines():
        result(line)
