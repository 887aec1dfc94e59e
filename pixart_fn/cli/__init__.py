"""The command `pixart-fn`. Each verb is a file here, and imports what runs on MindSpore only when it is called."""

# This uses click rather than argparse, whose import takes 18 ms less. With click, a misspelt option or verb is an
# exception that names it, so that each mistake can be one sentence; click has completion and nested verbs, and a test
# can call the command in its own process. typer is click with annotations, but its import takes twice as long and
# needs rich and pydantic. huggingface_hub's own command uses click too, so it is usually installed already.

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable

import click

import pixart_fn

from ..backend.runtime import CHOICE
from ..backend.wheels import not_installed
from ..files.reading import NotRegular
from ..process.signals import stoppable
from .app import app
from .bench import bench
from .completion import completion
from .console import report
from .convert import convert
from .doctor import doctor
from .fetch import fetch
from .generate import generate
from .models import models
from .plot import plot
from .prepare import prepare
from .show import show
from .train import Fields, train
from .verb import Verb

# what other programs call our options
ALIASES = {
    **dict.fromkeys(("height", "width", "resolution"), "size"),
    **dict.fromkeys(("cfg", "cfg-scale", "scale", "guidance-scale"), "guidance"),
    **dict.fromkeys(("num-images", "batch-size", "num", "count"), "n"),
    **dict.fromkeys(("num-inference-steps", "num-steps"), "steps"),
    **dict.fromkeys(("scheduler", "sampler"), "solver"),
    **dict.fromkeys(("image", "init-image", "input"), "init"),
    **dict.fromkeys(("denoising-strength", "denoise"), "strength"),
    **{"mask-image": "mask", "max-sequence-length": "tokens", "control-image": "control"},
    **dict.fromkeys(("controlnet-conditioning-scale", "conditioning-scale"), "control-scale"),
}
GIVEN = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError, NotRegular)
"""What names a file that can't be used."""
NAMED = (errno.ENAMETOOLONG, errno.ELOOP)
"""What the system says of a name that can't be used."""
# what else px.Guidance holds, which the command doesn't take
GUIDANCE = ("compat", "guidance-rescale", "interval", "method", "pag-layers", "pag-scale", "rescale", "worse")


class Verbs(click.Group):
    """The verbs of the command; a misspelt verb is an error that names the nearest one."""

    format_epilog = Verb.format_epilog

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        command = super().get_command(ctx, name)
        if command is None and not ctx.resilient_parsing and not name.startswith("-"):
            near = _nearest(name, self.commands)
            advice = f"the nearest is {near}" if near else f"the commands are {', '.join(self.commands)}"
            raise click.UsageError(f"there is no command {name!r}; {advice}", ctx)
        return command


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(pixart_fn.__version__, message="pixart-fn %(version)s")
@click.pass_context
def command(context: click.Context) -> None:
    """PixArt-α text to image: drawing and training."""
    if context.invoked_subcommand is None:
        raise click.UsageError(f"name a command: {', '.join(command.commands)}; pixart-fn --help says what each does")


for verb in (generate, show, models, fetch, convert, prepare, train, plot, bench, doctor, app, completion):
    command.add_command(verb)


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the words after `pixart-fn`; None takes the process's own.
    Returns:
        The exit status: 0; 1 where the machine failed: memory, disk, network; 2 where something given can't be used;
        130 after Ctrl-C. Of 1 and 2 one sentence on stderr says why. 1 too where MindSpore isn't installed.
    """
    try:
        os.getcwd()  # without one, MindSpore's import ends the process
    except OSError:
        return report("the working folder isn't there any more; change to another one")
    try:
        with stoppable():
            status = command.main(argv, prog_name="pixart-fn", standalone_mode=False)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except click.ClickException as error:
        return report(_sentence(error, sys.argv[1:] if argv is None else argv))
    except ModuleNotFoundError as error:
        if (said := not_installed(error)) is None:
            raise
        return report(said, 1)
    except OSError as error:
        return report(_of_the_system(error), 2 if isinstance(error, GIVEN) or error.errno in NAMED else 1)
    except (ValueError, TypeError) as error:
        return report(str(error))
    except (MemoryError, RuntimeError) as error:
        if "memory=" in str(error):  # it was refused before any work
            return report(_as_options(str(error)), 1)
        if CHOICE in str(error) or str(error).startswith("the device "):  # which can't be used here
            return report(str(error), 1)
        if not isinstance(error, MemoryError) and "memory failed" not in str(error):  # as MindSpore says it
            raise
        return report("there is too little memory for this; a smaller --size or --n, or --tile 512, needs less", 1)
    return status if isinstance(status, int) else 0


def _of_the_system(error: OSError) -> str:
    """Say an error of the system without its number."""
    if error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if error.strerror and str(error).startswith("[Errno"):
        return f"the system says: {error.strerror[:1].lower()}{error.strerror[1:]}"
    return str(error)


def _as_options(sentence: str) -> str:
    """Say a sentence about memory, which names arguments of Python, with the command's options."""
    for argument, option in (
        (r"tile=(\d+)", r"--tile \1"),
        (r"height=(\d+), width=(\d+)", r"--size \1x\2"),
        ("memory= sets another limit, in bytes", "--memory sets another limit, in GiB"),
    ):
        sentence = re.sub(argument, option, sentence)
    return sentence


def _sentence(error: click.ClickException, words: list[str]) -> str:
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return error.format_message().rstrip(".")
    # for -seed, click names only -s, the first letter
    unknown = next((word.split("=")[0] for word in words if word.startswith(error.option_name)), error.option_name)
    shown = [p for p in error.ctx.command.get_params(error.ctx) if not getattr(p, "hidden", False)]
    options = {name.lstrip("-"): name for p in shown for name in p.opts if name.startswith("--")}
    word = unknown.lstrip("-").replace("_", "-")
    near, own = _nearest(ALIASES.get(word, word), options), error.ctx.command
    if isinstance(own, Fields) and (field := own.advice(word)):
        advice = field
    elif word in GUIDANCE and "guidance" in options:
        advice = "--guidance takes the scale alone, and px.Guidance in Python takes all else"
    elif near is None:
        advice = f"{error.ctx.command_path} --help lists the options"
    else:
        advice = f"the nearest is {options[near]}"
    return f"there is no option {unknown}; {advice}"


def _nearest(word: str, words: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, words, 1)), None)
