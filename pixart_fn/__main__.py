"""python -m pixart_fn is the command pixart-fn."""

import sys

from .process.signals import deferred


def main() -> int:
    """Run the command; Ctrl-C while it is imported ends it as Ctrl-C later does."""
    try:
        with deferred():  # an interrupted import of NumPy or Pillow raises whatever else
            from .cli import main as command
    except KeyboardInterrupt:
        return 130
    return command()


if __name__ == "__main__":
    sys.exit(main())
