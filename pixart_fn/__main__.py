"""python -m pixart_fn is the command pixart-fn."""

import sys

from .cli import main

sys.exit(main())
