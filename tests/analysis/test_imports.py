"""What importing the analysis loads."""

import subprocess
import sys


def test_analysis_loads_neither_torch_nor_ray_nor_pyplot():
    code = (
        "import sys, raymeta.analysis; "
        "heavy = {'torch', 'ray', 'matplotlib.pyplot'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
