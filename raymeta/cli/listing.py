"""`raymeta list`."""

import argparse


def run(arguments: argparse.Namespace) -> None:
    """Print the names, with a line on each."""
    from raymeta import tasks
    from raymeta.hypergrad.registry import ESTIMATORS
    from raymeta.search.methods import METHODS, missing
    from raymeta.tasks import loading
    from raymeta.train import ALGORITHMS, KIND_OF

    print("tasks")
    for name in tasks.names():
        try:
            task = tasks.get(name)
        except ValueError as error:  # of an installed package
            print(f"  {name:<18} {error}")
            continue
        count, origin = len(task.space.flat_domains()), tasks.origin(task)
        print(
            f"  {name:<18} {count} hyperparameters, {task.horizon} steps a run, "
            f"budget {task.budget:g}{f' ({origin})' if origin else ''}"
        )
    print("methods")
    for name, method in METHODS.items():
        lacks = " ".join(map(repr, missing(method)))
        state = f"missing: pip install {lacks}" if lacks else "available"
        print(f"  {name:<16} {method.family:<14} {method.summary} ({state})")
    print("estimators")
    for name in ESTIMATORS:
        print(f"  {name}")
    print("meta-learning algorithms")
    for name, algorithm in ALGORITHMS.items():
        families = [
            family for family, kind in KIND_OF.items() if kind in algorithm.inner
        ]
        print(f"  {name:<16} {' '.join(families)}")
    for kind in (loading.LEARNER, loading.FAMILY):
        for name, point in loading.entry_points(kind).items():
            print(f"  {name:<16} {kind.noun} of {point.value}")
