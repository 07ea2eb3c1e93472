"""Hyperparameters of one task by hypergradients: the entry for `ray job submit`.

`ray job submit --working-dir . -- python jobs/optimize.py --task digits --name digits
--storage /shared/results` takes the flags of `raymeta optimize`. It computes in the
job's own process, with `--workers 4 --gpus 4` on workers of Ray Train, which share out
each training; a job that was killed goes on under the same `--name`.
"""

import sys

from raymeta.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["optimize", *sys.argv[1:]]))
