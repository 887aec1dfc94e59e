"""The end of the command's process: at once on a CPU, after all that was to be done, and with the right status."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys, threading, time
from pixart_fn.process.ending import Ending

class Said:
    def __del__(self):
        print("dissolved", file=sys.stderr, flush=True)

kept, ending = Said(), Ending()
atexit.register(print, "registered later")
threading.Thread(target=lambda: (time.sleep(0.2), print("thread"))).start()
ending.status = {status}
print("written", end=" ")
sys.exit(5)
"""


SHORT = """
from pixart_fn.process.ending import Ending

Ending().status = 0
print("lost", end="")
"""


def ended(source, **options):
    return subprocess.run([sys.executable, "-c", source], text=True, check=False, **options)


@pytest.mark.parametrize(("status", "expected", "said"), [(0, 0, ""), (3, 3, ""), (None, 5, "dissolved\n")])
def test_what_was_to_be_done_is_done_and_nothing_is_dissolved(status, expected, said):
    found = ended(SCRIPT.format(status=status), capture_output=True)
    assert (found.returncode, found.stdout, found.stderr) == (expected, "written thread\nregistered later\n", said)


def test_output_that_nobody_takes_is_an_error_as_always(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with open("/dev/full", "w") as full:
        found = ended(SHORT, stdout=full, stderr=subprocess.PIPE)
    assert found.returncode == 120 and "No space left on device" in found.stderr


COMMAND = """
import gc, sys
import pixart_fn.cli
from pixart_fn import __main__ as command
from pixart_fn.backend import workers
from pixart_fn.process import ending

made = []
class Ending(ending.Ending):
    def __init__(self):
        super().__init__()
        made.append(self)
command.Ending = Ending
command.main = lambda: {main}
try:
    command.run()
except SystemExit as error:
    print(error.code, made[0].status, gc.isenabled(), gc.get_freeze_count() > 0)
made[0].status = None
"""
IMPORT = "(sys.modules['pixart_fn.cli.doctor']._import(), 7)[1]"


@pytest.mark.parametrize(
    ("main", "worker", "printed"),
    [
        ("7", {}, "7 None True False"),  # without MindSpore there is nothing to dissolve
        (IMPORT, {}, "7 7 True True"),
        (IMPORT, {"MS_ROLE": "MS_WORKER"}, "7 None True True"),
    ],
)
def test_the_command_ends_at_once_on_a_cpu_where_no_worker_waits_for_it(main, worker, printed, monkeypatch):
    for name, value in worker.items():
        monkeypatch.setenv(name, value)
    found = ended(COMMAND.format(main=main), capture_output=True)
    assert (found.stdout.strip(), found.returncode) == (printed, 0), found.stderr
