"""Live progress of a comparison for people, as lines of text."""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raymeta.results.validity import INVALID, REMEDY
from raymeta.runtime.progress import WIDTH, clock, count, wrap
from raymeta.search.methods import Method
from raymeta.search.plan import Plan
from raymeta.search.spec import StudyKey
from raymeta.search.study.coordinator import StudyProgress
from raymeta.search.study.study import Study
from raymeta.space import Space
from raymeta.tasks.base import Task

if TYPE_CHECKING:
    import pandas as pd
#: What draws the figures and the page of a folder.
DRAW = "raymeta.analysis.write_report"


def opening(plan: Plan, folder: str) -> list[str]:
    """A first look at the tasks, what will run, and where the results go."""
    seeds = ", ".join(map(str, plan.seeds))
    sizes = [
        count(len(plan.methods), "method"),
        count(len(plan.tasks), "task"),
        count(len(plan.seeds), "seed"),
    ]
    unfit = [f"skipping {m} on {t}: {why}" for (t, m), why in plan.unfit().items()]
    workers = plan.workers_per_trial
    budgets = [f"{name} {budget:,g}" for name, budget in plan.budgets.items()]
    return [
        *plan.first_looks(),
        *wrap("comparing", [method.name for method in plan.methods]),
        *(f"skipping {name}: {need}" for name, need in plan.skipped.items()),
        *unfit,
        *wrap("on", [task.name for task in plan.tasks]),
        *(line for task in plan.tasks for line in _conditions(task)),
        *wrap(
            f"{' x '.join(sizes)} ({seeds}) =",
            [count(len(plan.study_specs()), "study")],
        ),
        *wrap("gradient evaluations per study:", budgets),
        *(["each trial on " + count(workers, "worker")] if workers > 1 else []),
        f"results go to {folder}",
    ]


def growth_lines(
    studies: Sequence[Study], known: Collection[str], grown: Collection[StudyKey]
) -> list[str]:
    """What a comparison that grows keeps, and what comes; nothing of one that does not.

    Args:
        studies: as they stand.
        known: names of those that were there.
        grown: those whose budget is larger than it was.
    """
    come = [study for study in studies if str(study.spec.key) not in known]
    if not grown and len(come) in (0, len(studies)):
        return []
    kept: dict[str, list[float]] = {}
    for study in studies:
        if study.spec.key in grown:
            spent = study.spent if study.reports else 0.0
            kept.setdefault(study.spec.method.name, []).append(spent)
    goes_on = [
        f"{name} " + " to ".join(dict.fromkeys(f"{x:,.0f}" for x in _ends(spent)))
        for name, spent in kept.items()
        if any(spent)
    ]
    anew = [name for name, spent in kept.items() if not any(spent)]
    new = dict.fromkeys(f"{s.spec.key.task}/{s.spec.key.method}" for s in come)
    return [
        *wrap(f"added to what is there, {count(len(come), 'study')}:", new) * bool(new),
        *wrap("larger budget, on after gradient evaluations:", goes_on) * bool(goes_on),
        *wrap("larger budget, anew, for it decides what is done first:", anew)
        * bool(anew),
    ]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def slots_lines(studies: Iterable[Study], slots: int, elapsed: float) -> list[str]:
    """That Ray is up, how many of its slots can be used, and why not more."""
    left = [study for study in studies if not study.finished]
    usable = sum(study.most_in_flight[0] for study in left)
    up = f"Ray is up after {elapsed:.1f} s:"
    if usable >= slots:
        return [f"{up} {slots} at a time"]
    most = {study.spec.method.name: study.most_in_flight for study in left}
    return [
        f"{up} {usable} at a time, for the other {slots - usable} of {slots} slots "
        "there are no trials",
        *wrap(
            "trials in flight per study, at most:",
            [f"{name} {number} ({why})" for name, (number, why) in most.items()],
        ),
    ]


def _conditions(task: Task) -> list[str]:
    """What is used at some options only, as the space says or as was found."""
    used = [
        f"{name} ({', '.join(_options(task.space, *at) for at in conditions.items())})"
        for name, conditions in task.space.when.items()
    ]
    return wrap(f"{task.name} uses at some options only:", used) if used else []


def _options(space: Space, choice: str, options: Sequence[Any]) -> str:
    domain = space.choices[choice]
    labels = [domain.labels[domain.index(option)] for option in options]
    return f"{choice} {' or '.join(labels)}"


def ranking_lines(frame: "pd.DataFrame", folder: str) -> list[str]:
    """The ranking, and what draws figures and page."""
    from raymeta import analysis

    table = analysis.format_ranking(analysis.ranking(frame))
    return ["", *table.splitlines(), "", f"figures: {DRAW}({folder!r})"]


def evidence_lines(
    evidence: Mapping[str, Mapping[str, Mapping[str, Any]]],
    unfair: Sequence[str],
    spending: Sequence[Mapping[str, Any]],
    methods: Sequence[Method],
) -> list[str]:
    """That the comparison was fair, or where it was not.

    Args:
        evidence: what `evidence_of` found.
        unfair: what `mismatches` found.
        spending: what `spending_of` found.
        methods: that were compared.
    """
    pairs = sum(len(seeds) for seeds in evidence.values())
    known = {(task, int(seed)) for task, seeds in evidence.items() for seed in seeds}
    asked = dict.fromkeys((study["task"], study["seed"]) for study in spending)
    lacking = [
        f"{task}, seed {seed}" for task, seed in asked if (task, seed) not in known
    ]
    same = (
        "evidence: initial weights (at the initial hyperparameters), data and batches "
        f"are the same for all methods, in {count(pairs, 'pair')} of task and seed"
    )
    tests = {study["tests"] for study in spending}
    looks = "one look" if tests == {1} else f"{min(tests)} to {max(tests)} looks"
    tuned = [m.name for m in methods if m.hyper_lr is not None]
    return [
        f"{INVALID}: {'; '.join(unfair)}: {REMEDY}" if unfair else same,
        *(
            line
            for task in evidence
            for line in _spent_lines(task, [c for c in spending if c["task"] == task])
        ),
        *wrap("no evidence, for the problem could not be read:", lacking)
        * bool(lacking),
        f"test set: {looks} per task, method and seed",
        *wrap("a hyper learning rate of its own, and a budget of its own:", tuned)
        * bool(tuned),
    ]


def _spent_lines(task: str, studies: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the dearest seed of each method spent, and the most at once."""
    parts = []
    for method in dict.fromkeys(study["method"] for study in studies):
        own = [study for study in studies if study["method"] == method]
        spent = max(study["spent"] for study in own)
        unit = max(study["largest_unit"] for study in own)
        parts.append(f"{method} {spent:,.0f} ({unit:,.0f})")
    asked = studies[0]["budget"]
    return wrap(f"{task}: of {asked:,g}, spent at most (largest unit):", parts)


def progress_lines(
    progress: Sequence[StudyProgress], elapsed: float, width: int = WIDTH
) -> list[str]:
    """Per task: time, then by method budget and best median, then trials and errors.

    Of several tasks, those that nobody works on share a line: they are done, or wait.
    """
    tasks: dict[str, list[StudyProgress]] = {}
    for study in progress:
        tasks.setdefault(study.key.task, []).append(study)
    waiting = [task for task, own in tasks.items() if _untouched(own)]
    done = [task for task, own in tasks.items() if min(s.share for s in own) == 1]
    shown = [task for task in tasks if task not in waiting + done] or list(tasks)
    return [
        *(line for t in shown for line in _task_lines(t, tasks[t], elapsed, width)),
        *_others("done:", done, shown, width),
        *_others("to come:", waiting, shown, width),
    ]


def _untouched(progress: list[StudyProgress]) -> bool:
    return not any(s.share or s.running or s.failed for s in progress)


def _others(head: str, tasks: list[str], shown: list[str], width: int) -> list[str]:
    others = [task for task in tasks if task not in shown]
    return wrap(f"  {head}", others, width=width) if others else []


def _task_lines(
    task: str, progress: list[StudyProgress], elapsed: float, width: int
) -> list[str]:
    running = sum(study.running for study in progress)
    failed = sum(study.failed for study in progress)
    methods = dict.fromkeys(study.key.method for study in progress)
    parts = [
        _method_part(method, [s for s in progress if s.key.method == method])
        for method in methods
    ]
    trials = f"{running} running" + (f", {failed} failed" if failed else "")
    errors = {s.key.method: s.error for s in reversed(progress) if s.error}
    return [
        *wrap(f"{clock(elapsed)} {task}:", [*parts, trials], " | ", width),
        *(f"  {method}: {error}"[:width] for method, error in errors.items()),
    ]


def _method_part(method: str, progress: list[StudyProgress]) -> str:
    share = math.floor(100 * statistics.fmean(s.share for s in progress))
    best = statistics.median(study.best for study in progress)
    value = f"{best:.4g}" if math.isfinite(best) else "-"
    return f"{method} {share:>2}% {value:<6}"
