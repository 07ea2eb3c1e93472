"""Checks that a comparison which is resumed, or grows, trains on what it began with."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from raymeta.results.provenance import provenance
from raymeta.results.run_folder import RunFolder, require_same
from raymeta.results.same_training import difference, unlike, unqualified
from raymeta.runtime import source_code
from raymeta.search.fairness import DIFFERS, fingerprint, same_values
from raymeta.search.plan import Plan, values_of
from raymeta.search.spec import StudyKey
from raymeta.tasks.base import Task

#: Studies by name -> whether they are finished.
Cells = dict[str, bool]


def cells_of(record: Mapping[str, Any]) -> Cells:
    """The studies that a comparison's record knows."""
    if (known := record.get("cells")) is not None:
        return dict(known)
    finished = bool(record.get("finished"))  # before comparisons grew
    return {
        str(StudyKey(task, method, seed)): finished
        for task in record["tasks"]
        for method in record["methods"]
        for seed in record["seeds"]
    }


def require_settings(path: Path, then: Mapping[str, Any], now: dict[str, Any]) -> None:
    """What a comparison that goes on has in common with its beginning is the same.

    Tasks, methods and seeds may come or stay away, budgets may grow.

    Raises:
        ValueError: other settings; a budget that shrinks, or grows for some only.
    """
    for what in ("tasks", "methods"):
        both = [name for name in then[what] if name in now[what]]
        old, new = ({n: r[what][n] for n in both} for r in (then, now))
        require_same(path, {what: unqualified(old)}, {what: unqualified(new)})
    same = "at_once", "workers_per_trial"
    require_same(path, then, {name: now[name] for name in same})
    for task, budget in now["budgets"].items():
        given = then["budgets"].get(task, budget)
        if budget < given:
            raise ValueError(
                f"{path} has a budget of {given:,g} on {task!r} and a comparison only "
                f"grows, but got {budget:,g}: give {given:,g} or more, or use another "
                "name"
            )
        if budget > given:
            _require_all(path, task, then, now)


def with_larger_budget(then: Mapping[str, Any], plan: Plan) -> list[StudyKey]:
    """Studies whose budget is larger than it was."""
    return [
        spec.key
        for spec in plan.study_specs()
        if spec.budget > then["budgets"].get(spec.task.name, spec.budget)
    ]


def _require_all(
    path: Path, task: str, then: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """A larger budget is for all that was compared on a task: else it is unfair."""
    asked = {
        str(StudyKey(task, method, seed))
        for method in now["methods"]
        for seed in now["seeds"]
    }
    known = [cell for cell in cells_of(then) if cell.startswith(f"{task}/")]
    if lacking := [cell for cell in known if cell not in asked]:
        raise ValueError(
            f"a larger budget on {task!r} is for all that {path} compares there, but "
            f"got none for {source_code.listed(lacking)}: name those methods and "
            "seeds, too, or use another name"
        )


def merged(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of all that a comparison has come to, what it began with first."""
    both = {what: {**then[what], **now[what]} for what in ("tasks", "methods")}
    seeds = list(dict.fromkeys([*then["seeds"], *now["seeds"]]))
    budgets = {**then["budgets"], **now["budgets"]}
    return {**now, **both, "seeds": seeds, "budgets": budgets}


def require_same_code(
    folder: RunFolder,
    code: Mapping[str, str],
    *,
    begun: bool,
    plan: Plan | None = None,
) -> None:
    """Note of what code it is; one that goes on must be of the same.

    Args:
        folder: the open folder of the run.
        code: the code of its tasks and methods, see `source_code.code_of`.
        begun: whether a trial has run; else what was noted is replaced.
        plan: of a comparison, which may have come to other tasks and methods.

    Raises:
        ValueError: functions or classes are not as they were.
    """
    then = folder.noted("code")
    if then is None or not begun:
        folder.note(code=source_code.recorded(code))
        return
    whole = True
    if plan is not None:
        tasks = [one for one in plan.tasks if one.name in folder.noted("tasks")]
        methods = [one for one in plan.methods if one.name in folder.noted("methods")]
        code = source_code.code_of(tasks, methods)
        whole = len(tasks) == len(folder.noted("tasks"))
        whole = whole and len(methods) == len(folder.noted("methods"))
    if differ := source_code.changed(then, code, whole=whole):
        raise ValueError(
            f"{folder.path} was started with other code, for since then "
            f"{source_code.listed(differ)} changed: use another name, or take the "
            "change back"
        )


def require_same_training(
    folder: RunFolder, plan: Plan, evidence: Mapping[str, Mapping[str, Any]]
) -> None:
    """What is added to a comparison must train on what is there.

    Args:
        folder: the open folder of the comparison.
        plan: what is asked for.
        evidence: what trials so far have found, as in evidence.json.

    Raises:
        ValueError: other versions, or other data, weights or batches.
    """
    now = {"runs": [provenance()]}
    if differs := difference({"runs": folder.noted("runs") or []}, now):
        what, then, here = differs
        raise ValueError(
            f"{folder.path} grows by what trains on the same, but the {what} was "
            f"{then} and is {here} now: install what it began with, or use another "
            "name"
        )
    for task in plan.tasks:
        seeds = {s: at for s, at in evidence.get(task.name, {}).items() if _is_one(at)}
        if not seeds:
            continue
        seed = next((str(s) for s in plan.seeds if str(s) in seeds), next(iter(seeds)))
        if kinds := _other(task, int(seed), seeds[seed]):
            raise ValueError(
                f"{folder.path} grows by what trains on the same, but the "
                f"{' and '.join(kinds)} of task {task.name!r}, seed {seed}, are not "
                "what they were: restore them, or use another name"
            )


def _other(task: Task, seed: int, digests: Mapping[str, Any]) -> list[str]:
    """What this process would train on otherwise; nothing where it cannot be known."""
    with suppress(Exception):  # its trials will say what is wrong
        found = fingerprint(task, seed)._asdict()
        if differs := unlike({task.name: {"": digests}}, {task.name: {"": found}}):
            return differs[1]
    return []


def _is_one(digests: Mapping[str, Any]) -> bool:
    """Whether trials have agreed so far."""
    return not any(DIFFERS in str(value) for value in digests.values())


def require_same_values(folder: RunFolder, plan: Plan, *, begun: bool) -> None:
    """Note what tasks compute at first; one that goes on must compute the same.

    Args:
        folder: the open folder of the comparison.
        plan: what is asked for, see `Plan.first_values`.
        begun: whether a trial has run; else what was noted is replaced.

    Raises:
        ValueError: a task does not.
    """
    then, first = folder.noted("first_values"), plan.seeds[0]
    if then is None or not begun:
        then = {}
    seeds = folder.noted("value_seeds") or dict.fromkeys(then, folder.noted("seeds")[0])
    for task in plan.tasks:
        if task.name not in then:
            continue
        seed = seeds[task.name]
        same = seed == first
        now = plan.first_values()[task.name] if same else values_of(task, seed)
        if not same_values(then[task.name], now):
            raise ValueError(
                f"{folder.path} was started where task {task.name!r} had outer losses "
                f"of {_numbers(then[task.name])} before and after its first step, and "
                f"has {_numbers(now)} now: its data, its random numbers or a library "
                "changed: seed the data, restore what changed, or use another name"
            )
    known = {name: values for name, values in then.items()}
    folder.note(
        first_values=plan.first_values() | known,
        value_seeds=dict.fromkeys(plan.first_values(), first)
        | {name: seeds[name] for name in known},
    )


def _numbers(values: Sequence[float]) -> str:
    return " and ".join(f"{value:.6g}" for value in values[:2])
