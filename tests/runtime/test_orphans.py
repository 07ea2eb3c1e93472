"""Processes that end with their parents."""

import subprocess
import sys

PARENT = """
import subprocess, sys, time
child = "import time; from raymeta.runtime.orphans import end_with_parent as end; "
child += "end(); end(); print('there', flush=True); time.sleep(100)"
subprocess.Popen([sys.executable, "-c", child])
time.sleep(100)
"""


def test_a_process_ends_with_its_parent():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"there\n"
    parent.kill()
    # The child has the pipe, too: it is at its end when both are gone.
    assert parent.communicate(timeout=30)[0] == b""
