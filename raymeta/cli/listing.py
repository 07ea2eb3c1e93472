"""`raymeta list`."""

import argparse
from collections.abc import Iterator
from typing import Any

from raymeta.cli import output


def run(arguments: argparse.Namespace) -> None:
    """Print the names, with a line on each."""
    from raymeta import tasks
    from raymeta.hypergrad.registry import ESTIMATORS
    from raymeta.search.methods import METHODS, missing
    from raymeta.tasks import loading
    from raymeta.train import ALGORITHMS, KIND_OF

    found: dict[str, list[dict[str, Any]]] = {"tasks": [], "methods": []}
    for name in tasks.names():
        try:
            task = tasks.get(name)
        except ValueError as error:  # of an installed package
            found["tasks"].append({"name": name, "error": str(error)})
            continue
        found["tasks"].append(
            {
                "name": name,
                "hyperparameters": len(task.space.flat_domains()),
                "horizon": task.horizon,
                "budget": task.budget,
                "origin": tasks.origin(task),
            }
        )
    for name, method in METHODS.items():
        lacks, family, about = missing(method), method.family, method.summary
        found["methods"].append(
            {"name": name, "family": family, "summary": about, "missing": lacks}
        )
    found["estimators"] = [{"name": name} for name in ESTIMATORS]
    found["algorithms"] = [
        {"name": name, "families": [f for f, k in KIND_OF.items() if k in a.inner]}
        for name, a in ALGORITHMS.items()
    ]
    found["own"] = [
        {"name": name, "kind": kind.noun, "source": point.value}
        for kind in (loading.LEARNER, loading.FAMILY)
        for name, point in loading.entry_points(kind).items()
    ]
    if arguments.json:
        output.print_json(found)
    else:
        print("\n".join(_lines(found)))


def _lines(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    yield "tasks"
    for task in found["tasks"]:
        name = f"  {task['name']:<18}"
        if "error" in task:
            yield f"{name} {task['error']}"
            continue
        origin = f" ({task['origin']})" if task["origin"] else ""
        yield (
            f"{name} {task['hyperparameters']} hyperparameters, {task['horizon']} "
            f"steps a run, budget {task['budget']:g}{origin}"
        )
    yield "methods"
    for method in found["methods"]:
        lacks = " ".join(map(repr, method["missing"]))
        state = f"missing: pip install {lacks}" if lacks else "available"
        about = f"{method['family']:<14} {method['summary']}"
        yield f"  {method['name']:<16} {about} ({state})"
    yield "estimators"
    yield from (f"  {estimator['name']}" for estimator in found["estimators"])
    yield "meta-learning algorithms"
    for algorithm in found["algorithms"]:
        yield f"  {algorithm['name']:<16} {' '.join(algorithm['families'])}"
    for own in found["own"]:
        yield f"  {own['name']:<16} {own['kind']} of {own['source']}"
