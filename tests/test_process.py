"""Importing and running raymeta leaves the process as it was."""

import faulthandler
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from raymeta.process import preserved

STATE = {
    "environment": lambda: dict(os.environ),
    "path": lambda: list(sys.path),
    "folder": os.getcwd,
    "handlers": lambda: {n: signal.getsignal(n) for n in signal.valid_signals()},
    "excepthook": lambda: sys.excepthook,
    "filters": lambda: list(warnings.filters),
    "python": random.getstate,
    "numpy": lambda: str(np.random.get_state()),  # noqa: NPY002
    "torch": lambda: torch.get_rng_state().tolist(),
    "dtype": torch.get_default_dtype,
    "threads": torch.get_num_threads,
    "level": lambda: logging.getLogger("torch").level,
    "root": lambda: list(logging.root.handlers),
}


def stir(tmp_path):
    os.environ["RAYMETA_TEST"] = "new"
    os.environ["HOME"] = "elsewhere"
    del os.environ["PATH"]
    sys.path.insert(0, "elsewhere")
    os.chdir(tmp_path)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    sys.excepthook = lambda *error: None
    warnings.simplefilter("ignore")
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    logging.getLogger("torch").setLevel(logging.CRITICAL)
    logging.root.addHandler(logging.NullHandler())


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_everything_is_given_back(error, tmp_path):
    before = {name: state() for name, state in STATE.items()}

    def change():
        with preserved():
            stir(tmp_path)
            changed = [name for name, state in STATE.items() if state() != before[name]]
            assert changed == list(STATE)
            if error is not None:
                raise error

    if error is None:
        change()
    else:
        with pytest.raises(error):
            change()

    assert {name: state() for name, state in STATE.items()} == before


def test_reports_of_crashes_stay_off():
    on = faulthandler.is_enabled()
    faulthandler.disable()
    try:
        with preserved():
            faulthandler.enable()
        assert not faulthandler.is_enabled()
    finally:
        if on:
            faulthandler.enable()


def test_another_thread_leaves_signals_alone():
    seen = []

    def work():
        with preserved():
            os.environ["RAYMETA_TEST"] = "new"
        seen.append(os.environ.get("RAYMETA_TEST"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]


IMPORTS = """
import os, random, signal, sys, warnings
import torch, numpy, pandas, scipy.stats, matplotlib

def state():
    handlers = {n: signal.getsignal(n) for n in signal.valid_signals()}
    hooks = sys.excepthook, warnings.showwarning
    settings = str(dict(matplotlib.rcParams)), matplotlib.get_backend()
    return (dict(os.environ), handlers, hooks, random.getstate(), list(sys.path),
            list(warnings.filters), settings, torch.get_default_dtype())

before = state()
import raymeta
assert state() == before, "import raymeta"
"""


LINES = [
    "import raymeta.runtime.ray_session",
    "import raymeta.search.methods.tpe",
    "from raymeta.search import compare",
    "import raymeta.train.ray_launcher",
    "for name in raymeta.__all__: getattr(raymeta, name)",
]
#: What takes seconds to import, in every worker: it is imported where it is used.
SLOW = {"torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sklearn"}


def test_imports_leave_no_trace():
    program = IMPORTS
    for line in LINES:
        program += f"\n{line}\nassert 'ray' in sys.modules\n"
        program += f"for b, a in zip(before, state()): assert a == b, ({line!r}, b, a)"
    program += f"\nassert not {SLOW} & set(sys.modules), {SLOW} & set(sys.modules)"
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNE", "RAY"))}
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean | path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


OWN = Path(__file__).parent / "support" / "own_tuner.py"


@pytest.mark.ray
def test_a_tuner_of_ones_own_is_the_same_before_and_after(tmp_path):
    """In a process of its own, with Rays that raymeta does and does not start."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNE", "RAY"))}
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(OWN), str(tmp_path)],
        env=clean | path | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "the same"
