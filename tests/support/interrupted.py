"""A comparison in a process of its own, to be interrupted: storage, which one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import search_toys
from ray import cloudpickle

from raymeta.search import compare
from raymeta.search.methods.pbt import Pbt

SETTINGS = {
    "tasks": search_toys.Bowl(step_s=0.005, nan_above=1.2, raise_above=1.6),
    "methods": [
        *("random", "asha", "tpe", "hyperband"),
        Pbt(population=4, intervals=3, quantile=0.5),
        search_toys.Walk((0.1, 0.5, 0.9, None)),
        *("long_term", "short_term"),
    ],
    "budget": 60,
    "seeds": 2,
    "name": "interrupted",
}


def long(storage, step_s=0.01):
    """Descents of some seconds, whose steps are counted in a file of the storage."""
    notes = Path(storage) / "steps"
    return {
        "tasks": search_toys.Noted(name="noted", step_s=step_s, notes=notes),
        "methods": ["short_term", "long_term"],
        "budget": 800,
        "seeds": 1,
        "name": "interrupted",
    }


if __name__ == "__main__":
    cloudpickle.register_pickle_by_value(search_toys)
    _, storage, which = sys.argv
    compare(**(long(storage) if which == "long" else SETTINGS), storage=storage)
