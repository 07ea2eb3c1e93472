"""Black-box methods against their own libraries, on functions of BBOB.

Each method of the table suggests as it does in a comparison: from the start, in log λ.
Beside it, its library is called as its own documentation calls it, on the exponents,
with the same start and seed. f - f* of the best of some evaluations is compared: what
the wrapper costs is the mean of log₁₀ of their ratio over functions × seeds, with its
95 % interval (Student's t); "within noise" is one that contains 0. Needs ioh, which has
the functions (Hansen et al. 2009), and each library; methods without theirs are left
out. `asha_cqr` and `bohb` have no row: the functions have no shorter runs.

    python -m jobs.experiments.wrappers_checked
    python -m jobs.experiments.wrappers_checked --methods smac ax --evaluations 30
"""

import argparse
import contextlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from raymeta.search import to_tune
from raymeta.search.methods import METHODS, SearchMethod, missing
from raymeta.search.tune.isolated_rng import IsolatedGlobalRNG
from raymeta.search.tune.quiet import quiet_tune
from raymeta.space import Positive, Space

#: Numbers of BBOB: sphere, Rosenbrock, Rastrigin.
FUNCTIONS = (1, 8, 15)
#: Exponents, where all methods begin: the functions live on [-5, 5]².
SIDE, START = 5.0, (1.0, 2.0)
NAMES = ("x0", "x1")

#: From exponents to f - f*.
Function = Callable[[Sequence[float]], float]


@dataclass(frozen=True)
class Exponents:
    """A task of which only the space is used: λ = 10^x."""

    name: str = "exponents"
    horizon: int = 1

    @property
    def space(self) -> Space:
        """Two of 10⁻⁵ to 10⁵."""
        low, high = 10**-SIDE, 10**SIDE
        x0, x1 = (Positive(10.0**x, low=low, high=high) for x in START)
        return Space(x0=x0, x1=x1)


def wrapped(name: str, function: Function, seed: int, evaluations: int) -> None:
    """A method of raymeta's, asked and told as a comparison does it."""
    method, task = METHODS[name], Exponents()
    assert isinstance(method, SearchMethod)
    given: Any = task
    with quiet_tune(), IsolatedGlobalRNG(seed):
        config = method.sized(evaluations).tune_config(given, seed)
        searcher: Any = config.search_alg
        searcher.set_search_properties(
            config.metric, config.mode, to_tune(Exponents().space)
        )
        for trial in map(str, range(evaluations)):
            point = searcher.suggest(trial)
            loss = function([math.log10(point[name]) for name in NAMES])
            result = {"outer_loss": loss, "training_iteration": 1, "config": point}
            searcher.on_trial_complete(trial, result)


# --------------------------------------------------------------- the libraries' own way


def _optuna(sampler: Callable[[int], Any]) -> Callable[[Function, int, int], None]:
    def run(function: Function, seed: int, evaluations: int) -> None:
        import optuna

        study = optuna.create_study(sampler=sampler(seed))
        study.enqueue_trial(dict(zip(NAMES, START, strict=True)))
        study.optimize(
            lambda trial: function(
                [trial.suggest_float(n, -SIDE, SIDE) for n in NAMES]
            ),
            n_trials=evaluations,
        )

    return run


def _tpe(seed: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed)


def _tpe_multivariate(seed: int) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, multivariate=True)


def _gp(seed: int) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed)


def _cmaes(seed: int) -> Any:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed)


def _hyperopt(function: Function, seed: int, evaluations: int) -> None:
    import functools

    from hyperopt import fmin, hp, tpe

    fmin(
        lambda point: function([point[name] for name in NAMES]),
        {name: hp.uniform(name, -SIDE, SIDE) for name in NAMES},
        functools.partial(tpe.suggest, n_startup_jobs=10),
        evaluations,
        points_to_evaluate=[dict(zip(NAMES, START, strict=True))],
        rstate=np.random.default_rng(seed),
        show_progressbar=False,
    )


def _smac(function: Function, seed: int, evaluations: int) -> None:
    import tempfile

    from ConfigSpace import ConfigurationSpace, Float
    from smac import HyperparameterOptimizationFacade as Facade
    from smac import Scenario

    space = ConfigurationSpace(seed=seed)
    for name, x in zip(NAMES, START, strict=True):
        space.add(Float(name, (-SIDE, SIDE), default=x))
    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space,
            deterministic=True,
            n_trials=evaluations,
            seed=seed,
            output_directory=Path(folder),
        )
        default = [space.get_default_configuration()]
        Facade(
            scenario,
            lambda config, seed=0: function([config[name] for name in NAMES]),
            initial_design=Facade.get_initial_design(
                scenario, additional_configs=default
            ),
            overwrite=True,
            logging_level=False,
        ).optimize()


def _ax(function: Function, seed: int, evaluations: int) -> None:
    import torch
    from ax.api.client import Client
    from ax.api.configs import RangeParameterConfig

    torch.set_num_threads(1)
    client = Client(random_seed=seed)
    client.configure_experiment(
        [
            RangeParameterConfig(
                name=name, parameter_type="float", bounds=(-SIDE, SIDE)
            )
            for name in NAMES
        ]
    )
    client.configure_optimization(objective="-f")
    first = dict(zip(NAMES, START, strict=True))
    client.complete_trial(client.attach_trial(first), {"f": function(START)})
    for _ in range(evaluations - 1):
        for trial, point in client.get_next_trials(max_trials=1).items():
            value = function([point[name] for name in NAMES])
            client.complete_trial(trial_index=trial, raw_data={"f": value})


def _blendsearch(function: Function, seed: int, evaluations: int) -> None:
    from flaml import BlendSearch, tune

    space = {name: tune.uniform(-SIDE, SIDE) for name in NAMES}
    first = dict(zip(NAMES, START, strict=True))
    search = BlendSearch("f", "min", space, points_to_evaluate=[first], seed=seed)
    tune.run(
        lambda config: {"f": function([config[name] for name in NAMES])},
        metric="f",
        mode="min",
        search_alg=search,
        num_samples=evaluations,
        verbose=0,
    )


def _cqr(function: Function, seed: int, evaluations: int) -> None:
    from syne_tune.config_space import uniform
    from syne_tune.optimizer.baselines import CQR
    from syne_tune.optimizer.schedulers.ask_tell_scheduler import AskTellScheduler

    space = {name: uniform(-SIDE, SIDE) for name in NAMES}
    first = dict(zip(NAMES, START, strict=True))
    np.random.seed(seed)  # noqa: NPY002, it draws from the global stream
    scheduler = AskTellScheduler(
        CQR(space, metric="f", random_seed=seed, points_to_evaluate=[first])
    )
    for _ in range(evaluations):
        trial = scheduler.ask()
        value = function([trial.config[name] for name in NAMES])
        scheduler.tell(trial, {"f": value})


DIRECT: dict[str, Callable[[Function, int, int], None]] = {
    "tpe": _optuna(_tpe),
    "tpe_multivariate": _optuna(_tpe_multivariate),
    "gp": _optuna(_gp),
    "cmaes": _optuna(_cmaes),
    "hyperopt": _hyperopt,
    "blendsearch": _blendsearch,
    "smac": _smac,
    "cqr": _cqr,
    "ax": _ax,
}


# ---------------------------------------------------------------------------- the table


def best_of(
    run: Callable[[Function, int, int], None],
    function: Function,
    seed: int,
    evaluations: int,
) -> float:
    """The least f - f* of what a search evaluates first; not below 10⁻⁸.

    Raises:
        ValueError: it evaluates less.
    """
    seen: list[float] = []

    def noted(point: Sequence[float]) -> float:
        seen.append(function([float(x) for x in point]))
        return seen[-1]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run(noted, seed, evaluations)
    if len(seen) < evaluations:
        raise ValueError(f"a search ended after {len(seen)} of {evaluations}")
    return max(min(seen[:evaluations]), 1e-8)


def checked(
    name: str,
    functions: Sequence[Function],
    seeds: int,
    evaluations: int,
) -> dict[str, Any]:
    """Medians of both, and what the wrapper costs: mean and interval of log₁₀."""
    pairs = [
        [
            math.log10(best_of(run, function, seed, evaluations))
            for run in (lambda f, s, n: wrapped(name, f, s, n), DIRECT[name])
        ]
        for function in functions
        for seed in range(seeds)
    ]
    ours, theirs = np.array(pairs).T
    costs = ours - theirs
    half = stats.t.ppf(0.975, len(costs) - 1) * stats.sem(costs)
    return {
        "method": name,
        "ours": 10 ** float(np.median(ours)),
        "theirs": 10 ** float(np.median(theirs)),
        "equal": float(np.mean(np.abs(costs) < 1e-6)),
        "cost": float(np.mean(costs)),
        "half": float(half),
    }


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    within = abs(found["cost"]) <= found["half"] or found["half"] == 0 == found["cost"]
    return (
        f"| `{found['method']}` | {found['ours']:.3g} | {found['theirs']:.3g} "
        f"| {found['equal']:.0%} | {found['cost']:+.2f} ± {found['half']:.2f} "
        f"| {'within noise' if within else 'differs'} |"
    )


def bbob(number: int) -> Function:
    """Excess f - f* of the first instance, in two dimensions."""
    import ioh

    problem = ioh.get_problem(
        number, instance=1, dimension=2, problem_class=ioh.ProblemClass.BBOB
    )
    return lambda point: float(problem(list(point))) - problem.optimum.y


def main() -> None:
    """Compare, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", choices=DIRECT, default=list(DIRECT))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a file for the numbers, as JSON")
    given = parser.parse_args()
    for name in ("seeds", "evaluations"):
        if getattr(given, name) < 2:
            parser.error(f"--{name} needs at least 2, but got {getattr(given, name)}")
    try:
        functions = [bbob(number) for number in FUNCTIONS]
    except ModuleNotFoundError:
        parser.error("the functions of BBOB need a package: pip install 'ioh>=0.4'")
    print(
        "| method | raymeta | its library | equal | cost | |\n|---|---|---|---|---|---|"
    )
    rows = []
    for name in given.methods:
        if needs := missing(METHODS[name]):
            print(f"skipping {name}: pip install {' '.join(map(repr, needs))}")
            continue
        with contextlib.redirect_stdout(None), quiet_tune():
            rows.append(checked(name, functions, given.seeds, given.evaluations))
        print(row(rows[-1]), flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
