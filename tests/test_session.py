import os
import signal
import subprocess
import sys

import pytest

from raymeta.interrupt import Interrupt

PREPARED = """
import os, sys
import raymeta
assert "ray" not in sys.modules, "raymeta imported Ray"

class Watch:  # looks at the environment when Ray is first imported
    def find_spec(self, name, path=None, target=None):
        if name == "ray":
            values = ("TUNE_WARN_THRESHOLD_S", "RAY_USAGE_STATS_ENABLED",
                      "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
            print(*(os.environ.get(value) for value in values))
            sys.exit()

sys.meta_path.insert(0, Watch())
import raymeta.search.methods.tpe
"""


@pytest.mark.parametrize("address", [{}, {"RAY_ADDRESS": "head:6379"}])
def test_the_environment_is_prepared_before_ray_is_imported(address):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TUNE", "RAY"))}
    path = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", PREPARED],
        env=clean | path | address | {"RAY_USAGE_STATS_ENABLED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    warn, usage, mode, token = done.stdout.split()
    assert (warn, usage) == ("60", "1")  # set, unless the user has set it
    if address:
        assert (mode, token) == ("None", "None")  # the cluster's affair
    else:
        assert mode == "token"
        assert len(token) == 64


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops(number):
    before = signal.getsignal(number)
    with Interrupt() as interrupt:
        assert not interrupt.requested
        signal.raise_signal(number)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) == before
