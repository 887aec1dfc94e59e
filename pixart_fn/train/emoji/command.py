"""How the commands of the recipe end."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run(main: Callable[[], None]) -> None:
    """Run a command, and say in one sentence, with the exit status 1, what is wrong with its files or options."""
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
