"""Memory of hypergradients of a transformer's training, over that of plain training.

Each case runs in a process of its own, one after the other: 4 pre-norm blocks of width
256, AdamW, batches of 8 × 64 tokens; one hypergradient of the
learning rate. The peak is that of the whole process, the time that of its processor; on
a GPU, that of its memory, and wall time. No Ray is needed.

    python -m jobs.benchmarks.run_memory --cases plain-20 checkpointed-60
    python -m jobs.benchmarks.run_memory --device cuda
"""

import argparse
import atexit
import json
import shutil
import subprocess
import sys
import tempfile
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


def _spilled(steps: int) -> Estimator:
    """All states in files, of a folder that goes with the process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return Checkpointed(steps, spill=folder)


#: Name -> (T, estimator; None trains without hypergradient; parts of a batch).
CASES: dict[str, tuple[int, Callable[[int], Estimator] | None, int]] = {
    "plain-20": (20, None, 1),
    "reverse-20": (20, Reverse, 1),
    "checkpointed-20": (20, Checkpointed, 1),
    "checkpointed-60": (60, Checkpointed, 1),
    "checkpointed-60-in-8": (60, Checkpointed, 8),
    "checkpointed-60-1GB": (60, lambda t: Checkpointed(t, memory="1GB"), 1),
    "checkpointed-1000-1GB": (1000, lambda t: Checkpointed(t, memory="1GB"), 1),
    "checkpointed-1000-spilled-in-8": (1000, _spilled, 8),
}


def measure(name: str, width: int, depth: int, device: str = "cpu") -> dict[str, Any]:
    """dE/dλ, the peak of this process in GB, and its seconds per step."""
    steps, make, parts = CASES[name]
    torch.set_num_threads(1)
    problem = micro_batched(transformer(width, depth, device), parts)
    hparams = {"lr": torch.tensor([1e-3], device=device)}
    clock, peak = time.process_time, _process_peak
    if device != "cpu":
        clock, peak = time.perf_counter, torch.cuda.max_memory_allocated
    begin, slope = clock(), float("nan")
    if make is None:
        state = advance(problem, hparams, start(problem, hparams).state, 0, steps)
        float(problem.outer_loss(state, hparams))  # waits for a GPU
    else:
        slope = float(hypergradient(problem, hparams, make(steps)).grads["lr"])
    return {
        "dE/dlr": slope,
        "seconds": (clock() - begin) / steps,
        "peak": peak() / 1e9,
    }


def _process_peak() -> int:
    """Bytes."""
    import resource  # which Windows does not have

    return 1000 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(
    name: str, width: int = WIDTH, depth: int = DEPTH, device: str = "cpu"
) -> dict[str, Any]:
    """The same of a fresh process."""
    argument = json.dumps([name, width, depth, device])
    command = [sys.executable, "-m", "jobs.benchmarks.run_memory", "--one", argument]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(*json.loads(given.one))))
        return
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and torch sees none: leave it out")
    print("| case | dE/dlr | s a step | peak GB |\n|---|---|---|---|")
    for name in given.cases:
        row = measured(name, device=given.device)
        print(
            f"| {name} | {row['dE/dlr']:.6g} | {row['seconds']:.2f} "
            f"| {row['peak']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
