"""python -m pixart_fn is the command pixart-fn."""

import sys
from typing import NoReturn

from .process.ending import Ending
from .process.signals import deferred


def main() -> int:
    """Run the command; Ctrl-C while it is imported, once the package itself is, ends it as Ctrl-C later does."""
    try:
        with deferred():  # an interrupted import of NumPy or Pillow raises whatever else
            from .cli import main as command
    except KeyboardInterrupt:
        return 130
    return command()


def run() -> NoReturn:
    """Run the command in a process of its own, and end that."""
    ending = Ending()
    status = main()
    if "mindspore" in sys.modules:
        from .backend import device, workers  # no work at the start, where Ctrl-C would show it

        if device.is_cpu() and workers.are_alone():  # another device has an end of its own, and workers tell theirs
            ending.status = status
    sys.exit(status)


if __name__ == "__main__":
    run()
