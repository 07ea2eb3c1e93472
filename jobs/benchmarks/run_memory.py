"""Memory of hypergradients of a transformer's training, over that of plain training.

Each case runs in a process of its own, one after the other: 4 pre-norm blocks of width
256, AdamW, batches of 8 × 64 tokens; one hypergradient of the
learning rate. The peak is that of the whole process, the time that of its processor.

    python -m jobs.benchmarks.run_memory --cases plain-20 checkpointed-60
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from jobs.benchmarks.ranks import transformer
from raymeta import hypergradient
from raymeta.hypergrad import Checkpointed, Estimator, Reverse
from raymeta.hypergrad.base import advance, start
from raymeta.modules import micro_batched

WIDTH, DEPTH = 256, 4
#: Name -> (T, estimator; None trains without hypergradient; parts of a batch).
CASES: dict[str, tuple[int, Callable[[int], Estimator] | None, int]] = {
    "plain-20": (20, None, 1),
    "reverse-20": (20, Reverse, 1),
    "checkpointed-20": (20, Checkpointed, 1),
    "checkpointed-60": (60, Checkpointed, 1),
    "checkpointed-60-in-8": (60, Checkpointed, 8),
    "checkpointed-60-1GB": (60, lambda t: Checkpointed(t, memory="1GB"), 1),
    "checkpointed-1000-1GB": (1000, lambda t: Checkpointed(t, memory="1GB"), 1),
}


def measure(name: str, width: int, depth: int) -> dict[str, Any]:
    """dE/dλ, the peak of this process in GB, and its seconds per step."""
    steps, make, parts = CASES[name]
    torch.set_num_threads(1)
    problem = micro_batched(transformer(width, depth), parts)
    hparams = {"lr": torch.tensor([1e-3])}
    begin, slope = time.process_time(), float("nan")
    if make is None:
        advance(problem, hparams, start(problem, hparams).state, 0, steps)
    else:
        slope = float(hypergradient(problem, hparams, make(steps)).grads["lr"])
    import resource  # which Windows does not have

    return {
        "dE/dlr": slope,
        "seconds": (time.process_time() - begin) / steps,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def measured(name: str, width: int = WIDTH, depth: int = DEPTH) -> dict[str, Any]:
    """The same of a fresh process."""
    argument = json.dumps([name, width, depth])
    command = [sys.executable, "-m", "jobs.benchmarks.run_memory", "--one", argument]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    print("| case | dE/dlr | CPU s a step | peak GB |\n|---|---|---|---|")
    for name in given.cases:
        row = measured(name)
        print(
            f"| {name} | {row['dE/dlr']:.6g} | {row['seconds']:.2f} "
            f"| {row['peak']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
