"""Evidence that a comparison was fair: what was trained on, spent and looked at."""

import functools
import hashlib
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from raymeta._tree import tree_leaves
from raymeta.problem import BilevelProblem
from raymeta.tasks.base import Task
from raymeta.types import Hparams

if TYPE_CHECKING:
    from raymeta.search.study.study import Study


#: Between digests that ought to be one.
DIFFERS = " != "


class Fingerprint(NamedTuple):
    """SHA-256 of what the trials of a (task, seed) train on, as hexadecimal digits.

    Attributes:
        weights: s_0 at the space's initial λ. Where λ enters the initial weights, a
            trial at another λ starts elsewhere, by the same rule.
        data: every tensor that the problem's functions hold but do not train: training,
            validation and test examples, and whatever else the problem is made of.
        batches: b_0 … b_{T-1}, as they are asked for.
    """

    weights: str
    data: str
    batches: str


def fingerprint(task: Task, seed: int) -> Fingerprint:
    """Of the problem at the initial options of all choices, newly sampled.

    It is sampled twice: where the second problem is another, whichever trial of this
    process samples it trains on something else, and both digests are given, joined by
    `DIFFERS`. Data is read before anything else is called, so caches that fill later do
    not count.
    """
    problems = [task.sample(seed) for _ in range(2)]
    data = [_digest(_data_of(problem)) for problem in problems]
    moving = [_moving(problem, task) for problem in problems]
    found = [Fingerprint(w, d, b) for d, (w, b) in zip(data, moving, strict=True)]
    return Fingerprint(
        *(DIFFERS.join(dict.fromkeys(pair)) for pair in zip(*found, strict=True))
    )


def _data_of(problem: BilevelProblem) -> Iterator[Tensor | np.ndarray]:
    trained = problem.batch, problem.step, problem.outer_loss
    return _held((*trained, problem.metrics, problem.holdout_loss), set())


def _moving(problem: BilevelProblem, task: Task) -> tuple[str, str]:
    """Digests of s_0 and of all batches."""
    state = problem.init(task.space.initial())
    batches = map(problem.batch, range(task.horizon))
    leaves = (leaf for batch in batches for leaf in tree_leaves(batch))
    return _digest(tree_leaves(state)), _digest(leaves)


def first_values(problem: BilevelProblem, hparams: Hparams) -> list[float]:
    """E before and after the first training step, and the step's length in between.

    They tell a later process whether it would train the same. None where they cannot be
    computed: its trials will say why.
    """
    try:
        state, batch = problem.init(hparams), problem.batch(0)
        stepped = problem.step(state, hparams, batch)
        ends = [float(problem.outer_loss(s, hparams)) for s in (state, stepped)]
        return [*ends, _distance(state, stepped)]
    except Exception:
        return []


def _distance(one: Any, other: Any) -> float:
    """Euclidean, over all floating-point leaves."""
    pairs = zip(tree_leaves(one), tree_leaves(other), strict=True)
    squares = [
        float((b.detach() - a.detach()).double().square().sum())
        for a, b in pairs
        if isinstance(a, Tensor) and a.is_floating_point()
    ]
    return math.sqrt(math.fsum(squares))


def same_values(then: Iterable[float], now: Iterable[float]) -> bool:
    """Whether `first_values` are the same up to what machines round differently."""
    then, now = list(then), list(now)
    if len(then) != len(now):
        return not (then and now)  # where one could not be computed, nothing is known
    return all(
        a == b or (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=1e-3)
        for a, b in zip(then, now, strict=True)
    )


def _digest(items: Iterable[Any]) -> str:
    """Types, shapes and bits of tensors, and the text of all else."""
    digest = hashlib.sha256()
    for item in items:
        if isinstance(item, Tensor | np.ndarray):
            digest.update(f"{item.dtype}{tuple(item.shape)}".encode())
        if isinstance(item, Tensor):
            flat = item.detach().cpu().contiguous().view(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
        elif isinstance(item, np.ndarray):
            digest.update(item.tobytes())
        else:
            digest.update(repr(item).encode())
    return digest.hexdigest()


def _held(thing: Any, seen: set[int]) -> Iterator[Tensor | np.ndarray]:
    """Every tensor within reach of functions and objects, in a fixed order.

    Without what modules train, for that is in the state.
    """
    if isinstance(thing, nn.Parameter) and thing.requires_grad:
        return
    if isinstance(thing, Tensor | np.ndarray):
        yield thing
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    for part in _parts(thing):
        yield from _held(part, seen)


def _parts(thing: Any) -> Iterable[Any]:
    if isinstance(thing, nn.Module):
        return [*thing.parameters(), *thing.buffers()]
    if isinstance(thing, Mapping):
        return thing.values()
    if isinstance(thing, list | tuple):
        return thing
    if isinstance(thing, functools.partial):
        return [thing.func, thing.args, thing.keywords]
    if (inner := inspect.unwrap(thing)) is not thing:  # a cache of functools
        return [inner]
    if isinstance(thing, MethodType):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, FunctionType):
        cells = thing.__closure__ or ()
        return [*(cell.cell_contents for cell in cells), thing.__defaults__]
    return _attributes(thing)


def _attributes(thing: Any) -> Iterable[Any]:
    """What an object of a user's or raymeta's may hold tensors in."""
    if isinstance(thing, type | ModuleType):
        return ()
    try:
        return vars(thing).values()
    except TypeError:  # it has no attributes of its own
        return ()


def evidence_of(studies: Iterable["Study"]) -> dict[str, dict[str, dict[str, Any]]]:
    """What methods trained on, by task and seed.

    Returns:
        task -> seed -> `weights`, `data` and `batches` as in `Fingerprint`, as the
        trials of all workers found them: one digest each, or all that were found,
        joined by " != "; and `methods`, the names of those that they are from.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for study in studies:
        name = study.spec.key
        said = [m.evidence for _, m in study.heard.saying("evidence")]
        if not said:
            continue
        at = found.setdefault(name.task, {}).setdefault(str(name.seed), {})
        for kind in Fingerprint._fields:
            known = at[kind].split(DIFFERS) if kind in at else []
            digests = [d for e in said for d in e[kind].split(DIFFERS)]
            at[kind] = DIFFERS.join(dict.fromkeys([*known, *digests]))
        at.setdefault("methods", []).append(name.method)
    return found


def reasons(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> dict[tuple[str, int], str]:
    """(task, seed) -> what differs there, as `validity.mark` takes it."""
    differing = {
        (task, int(seed)): [kind for kind in Fingerprint._fields if DIFFERS in at[kind]]
        for task, seeds in found.items()
        for seed, at in seeds.items()
    }
    return {
        pair: f"{' and '.join(kinds)} differ"
        for pair, kinds in differing.items()
        if kinds
    }


def mismatches(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """Where methods, or trials of one, did not train on the same; nothing if fair."""
    return [
        f"{task}, seed {seed}: {kind} differ"
        for task, seeds in found.items()
        for seed, at in seeds.items()
        for kind in Fingerprint._fields
        if DIFFERS in at[kind]
    ]


def spending_of(studies: Iterable["Study"]) -> list[dict[str, Any]]:
    """What studies were given and used, one row each.

    Returns:
        `task`, `method`, `seed`; `budget`, `spent` and `largest_unit`, the most that
        one report added, in gradient evaluations; `tests`, looks at the test set.
    """
    return [_spending(study) for study in studies]


def _spending(study: "Study") -> dict[str, Any]:
    spent: dict[int, float] = {}
    largest = 0.0
    for number, report in study.reports:
        if report.kind != "final":
            before = spent.get(number, 0.0)
            largest = max(largest, report.gradient_evals - before)
            spent[number] = report.gradient_evals
    return {
        **study.spec.key._asdict(),
        "budget": study.spec.budget,
        "spent": study.spent,
        "largest_unit": largest,
        "tests": sum(report.kind == "final" for _, report in study.reports),
    }
