"""Memory of the outer loss over many validation images, against that over few.

Each size runs in a process of its own, one after the other: a problem is made, and one
hypergradient estimated. Images of 3 × 32 × 32 are read from a file, one by one, as from
a folder, and go through a small CNN. The peak is that of the whole process.

    python -m jobs.benchmarks.validation_memory
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from raymeta import hypergradient, module_problem, optim
from raymeta.hypergrad import Reverse

SHAPE, CLASSES = (3, 32, 32), 10
BYTES = 3 * 32 * 32
FEW, MANY, SIZE, STEPS = 500, 50_000, 500, 2
#: What the peak with many may be above that with few, in GB.
MOST = 0.3


class Images(Dataset):
    """The first images of a file of bytes, with the remainder of their index as label.

    Args:
        path: of the file.
        count: how many.
    """

    def __init__(self, path: Path, count: int) -> None:
        self._file, self._count = os.open(path, os.O_RDONLY), count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        read = bytearray(os.pread(self._file, BYTES, i * BYTES))
        image = torch.frombuffer(read, dtype=torch.uint8).view(SHAPE)
        return image.float() / 255, i % CLASSES


def write_images(path: Path, count: int) -> None:
    """Random images, a thousand at a time."""
    generator = torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        for first in range(0, count, 1000):
            shape = (min(1000, count - first), BYTES)
            pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
            file.write(pixels.numpy().tobytes())


def estimate(path: Path, count: int, size: int | None) -> dict[str, Any]:
    """E, dE/dλ, the peak of this process in GB, and the seconds of an estimate."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, CLASSES),
    )
    problem = module_problem(
        net,
        loss=F.cross_entropy,
        train=Images(path, FEW),
        val=Images(path, count),
        batch_size=100,
        val_batch_size=size,
        optimizer=lambda h: optim.sgd(h["lr"], momentum=0.9),
    )
    start = time.process_time()
    found = hypergradient(problem, {"lr": torch.tensor(0.05)}, Reverse(STEPS))
    import resource  # which Windows does not have

    return {
        "examples": count,
        "val_batch_size": size,
        "E": float(found.outer_loss),
        "dE/dlr": float(found.grads["lr"]),
        "seconds": time.process_time() - start,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def measured(path: Path, count: int, size: int | None) -> dict[str, Any]:
    """The same of a fresh process."""
    argument = json.dumps([str(path), count, size])
    command = [sys.executable, "-m", "jobs.benchmarks.validation_memory", argument]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(many: int = MANY, whole: bool = False) -> list[dict[str, Any]]:
    """Few in one pass, many in passes of as many, and maybe many in one pass.

    Args:
        many: validation images.
        whole: whether to measure the last as well, which takes gigabytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images"
        write_images(path, many)
        runs = [(FEW, None), (many, SIZE)] + [(many, None)] * whole
        return [measured(path, count, size) for count, size in runs]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("one", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=MANY)
    parser.add_argument("--whole", action="store_true", help="in one pass, too")
    given = parser.parse_args()
    if given.one is not None:
        path, count, size = json.loads(given.one)
        print(json.dumps(estimate(Path(path), count, size)))
        return
    rows = compare(given.images, given.whole)
    print("| validation images | in passes of | E | dE/dlr | CPU s | peak GB |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        passes = row["val_batch_size"] or "all"
        print(
            f"| {row['examples']:,} | {passes} | {row['E']:.6f} | {row['dE/dlr']:.6f} "
            f"| {row['seconds']:.1f} | {row['peak']:.3f} |"
        )
    more = rows[1]["peak"] - rows[0]["peak"]
    verdict = "reached" if more <= MOST else "missed"
    print(f"\n{more:+.3f} GB with many, at most {MOST}: {verdict}")


if __name__ == "__main__":
    main()
