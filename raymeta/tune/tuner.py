"""Tasks and methods for a `tune.Tuner` of one's own: space, trainable, settings."""

from dataclasses import dataclass, replace
from typing import Any

from ray.tune import RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import PopulationBasedTraining
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.sample import Domain

from raymeta import tasks
from raymeta.outer.arguments import require_seed
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.conditions import conditioned
from raymeta.runtime.serialization import pack
from raymeta.search import methods
from raymeta.search.methods import DescentMethod, Method, SearchMethod
from raymeta.search.methods.base import METRIC, MODE
from raymeta.search.methods.hyperband import HyperBand
from raymeta.search.methods.random import Random
from raymeta.search.methods.rung_schedules import even
from raymeta.search.tune.space import to_tune, tune_names
from raymeta.tasks import loading
from raymeta.tasks.base import Task, budget_of, sampled
from raymeta.tune.trial import DescentTrial, TaskTrial, TrainingTrial

#: The method of trials that train at constant λ.
TRAIN = "train"


@dataclass(frozen=True)
class Train(Random):
    """Training at constant λ, with an outer loss ten times on the way."""

    name: str = TRAIN
    reports: int = 10

    def rungs(self, task: Task) -> tuple[int, ...]:
        """Equal parts of the horizon."""
        return even(task, self.reports)


def space(task: Task | str) -> dict[str, Domain]:
    """The task's search space as Tune has it, a domain for each scalar of λ.

    They sample uniformly in the coordinates of `Space`: log λ for `Positive`. A slash
    in a name becomes a division slash, for Tune reads slashes as nested dictionaries.

    Raises:
        ValueError: a continuous hyperparameter is not bounded.
    """
    found = tasks.resolve(task)
    domains, names = to_tune(found.space), tune_names(found.space)
    return {names[name]: domain for name, domain in domains.items()}


def trainable(
    task: Task | str,
    method: Method | str = TRAIN,
    *,
    seed: int = 0,
    budget: float | None = None,
) -> type[TaskTrial]:
    """A trainable for `tune.Tuner`: training, or a descent, on one sample of a task.

    Each result has `outer_loss`, `best_outer_loss` (the lowest of a full run so far),
    `inner_steps`, `gradient_evals`, `flops`, `wall_s` and `hp/<name>`, of this trial.
    Training ends at the horizon or where the outer loss is not finite. Whatever the
    trial's configuration leaves out of λ is at its initial value; a descent starts
    there.

    Args:
        task: an object, a name, or `path.py:Name`.
        method: "train", at constant λ with ten outer losses on the way; a search
            method, to train as its trials do; or a hypergradient method.
        seed: seeds the task's sample, and every random draw of a descent.
        budget: gradient evaluations of a descent; the task's by default.

    Raises:
        ValueError: a name is unknown; the method refuses the task, or the budget does
            not cover one of its runs; a budget for what trains once.
    """
    found, how = tasks.resolve(task), _method(method)
    require_seed(seed)
    found = conditioned(found, seed)
    if isinstance(how, SearchMethod) and budget is not None:
        raise ValueError(
            f"a budget is what a descent spends, but a trial of {how.name!r} trains "
            f"once and got budget={budget:g}: leave it out, or stop trials by "
            "gradient_evals"
        )
    spent = budget_of(found, budget)
    least = how.min_budget(found, sampled(found, seed))
    descends = isinstance(how, DescentMethod)
    if descends and not BudgetMeter(spent).covers(least):
        raise ValueError(
            f"{how.name} on {found.name!r} takes at least {least:,.0f} gradient "
            f"evaluations, but got budget={spent:g}: give more"
        )
    parts = {
        "payload": pack((found, how), "task and method", loading.modules()),
        "seed": seed,
        "budget": spent,
        "__doc__": f"{how.name} on {found.name}, seed {seed}.",
    }
    base = DescentTrial if descends else TrainingTrial
    return type(f"{how.name}-{found.name}", (base,), parts)


def config(
    method: Method | str, task: Task | str, seed: int = 0, budget: float | None = None
) -> TuneConfig:
    """The `TuneConfig` of a method: metric, searcher, scheduler, number of trials.

    Args:
        method: a method of `raymeta.compare`, by name or as an object.
        task: what is searched: an object, a name, or `path.py:Name`.
        seed: seeds the searcher.
        budget: `num_samples` is the number of full runs that it covers; the task's by
            default. One for a descent, which spends it in one trial.

    Raises:
        ValueError: a name is unknown; the method refuses the task, or has brackets.
    """
    found, how = tasks.resolve(task), _method(method)
    if isinstance(how, HyperBand):
        raise ValueError(
            f"the brackets of {how.name!r} are halved by raymeta.compare only, for in "
            "Tune's own order every trial trains to its end: use 'asha' here, or "
            "raymeta.compare"
        )
    require_seed(seed)
    found = conditioned(found, seed)
    if not isinstance(how, SearchMethod):
        return TuneConfig(metric=METRIC, mode=MODE)
    runs = budget_of(found, budget) / how.min_budget(found, sampled(found, seed))
    if not runs >= 1:
        raise ValueError(
            f"a budget must cover a full training run of task {found.name!r}, but got "
            f"{budget_of(found, budget):g} gradient evaluations: give more"
        )
    settings = how.sized(runs).tune_config(found, seed)
    if isinstance(settings.scheduler, PopulationBasedTraining):
        # Which Tune refuses beside a searcher; this one is none to it.
        points = [found.space.initial_point()]
        first = BasicVariantGenerator(points_to_evaluate=points, random_state=seed)
        settings = replace(settings, search_alg=first)
    together = how.batch_size(found, runs)
    samples = together if together > 1 else int(runs)
    return replace(settings, num_samples=samples, reuse_actors=True)


def tuner(
    task: Task | str,
    method: Method | str = "random",
    seed: int = 0,
    *,
    budget: float | None = None,
    **run_config: Any,
) -> Tuner:
    """A `tune.Tuner` that runs a method on a task, as Tune runs it.

    The trials, their resources and their order are Tune's: `raymeta.compare` is what
    holds methods to one budget and repeats to the bit.

    Args:
        task: an object, a name, or `path.py:Name`.
        method: a method of `raymeta.compare`, by name or as an object.
        seed: seeds the task's sample, the searcher, and a descent.
        budget: see `config`.
        run_config: arguments of `tune.RunConfig`: name, storage_path, stop, callbacks.

    Raises:
        ValueError: see `trainable`.
    """
    how = _method(method)
    descends = isinstance(how, DescentMethod)
    spends = {"budget": budget} if descends else {}
    return Tuner(
        trainable(task, how, seed=seed, **spends),
        param_space={} if descends else to_tune(tasks.resolve(task).space),
        tune_config=config(how, task, seed, budget),
        run_config=RunConfig(**run_config),
    )


def _method(method: Method | str) -> Method:
    return Train() if method == TRAIN else methods.resolve(method)
