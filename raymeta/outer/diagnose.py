"""Diagnosis of a task before anything is spent: can its hypergradient be trusted?"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from raymeta import tasks
from raymeta.errors import require_arguments
from raymeta.hypergrad.base import plain_cost
from raymeta.hypergrad.checkpointed import Checkpointed
from raymeta.hypergrad.memory import step_graph_bytes
from raymeta.hypergrad.used_hparams import require_names
from raymeta.outer.arguments import number_of, require_seed
from raymeta.outer.budget import BudgetMeter
from raymeta.outer.cast_problem import cast_problem, precision_of, why_not_cast
from raymeta.outer.conditions import conditioned
from raymeta.outer.coordinates import Coordinates
from raymeta.outer.diagnosis import ROUNDINGS, Diagnosis, Precision, Slope
from raymeta.outer.first_look import (
    UNSEEDED,
    is_repeatable,
    non_smooth_parts,
)
from raymeta.outer.report import outer_value
from raymeta.outer.sensitivity import (
    Recorded,
    Sensitivity,
    differentiate,
    distance,
    metasmoothness,
    record,
    run_through,
    weights,
)
from raymeta.problem import BilevelProblem
from raymeta.space import Choice
from raymeta.tasks.base import Task, sampled
from raymeta.types import Hparams, State

#: Coordinates up to which the slope along the others is looked at unasked.
FEW = 3
#: What is spent unasked, in plain runs.
RUNS = 6
#: Bytes that the graph of the run may take; beyond, its steps are run twice.
ROOM = 2**30


def diagnose(
    task: Task | str,
    *,
    seed: int = 0,
    step: float = 0.03,
    coordinates: bool | None = None,
    precision: bool | None = None,
) -> Diagnosis:
    r"""Diagnosis of a task at its start: can its hypergradient be trusted?

    It costs one estimate (3 T) and 3 plain runs, 6 in all; where the graph of the run
    takes more than 1 GiB, one step by step (4 T) and 2, which is 6 again:

    $$ d = \frac{E(x + \delta v) - E(x - \delta v)}{2\delta},\qquad
       s = v \cdot \frac{dE}{dx},\qquad v = \frac{dE/dx}{\|dE/dx\|_\infty} $$

    x are the coordinates that descents walk in (log λ for `Positive`), so that ±δ of
    0.03 are ±3 % of the hyperparameter that matters most. Where E is smooth, d is s.
    Both runs also say how far the trained weights jump (metasmoothness) and come apart
    (tangents); the estimate says how dE/ds_t grows backwards through the run.

    Args:
        task: what is tuned: an object, a name, or `path.py:Name`. It is looked at where
            its space starts, at its initial options.
        seed: seeds the task's sample.
        step: δ.
        coordinates: whether to look along each coordinate but the steepest too, two
            runs each; by default along the others together, by one run, where there are
            at most 3.
        precision: whether to look at E and its slope in float64, and at E in bfloat16;
            by default at E in float64 alone, where that is within the 6 runs. A problem
            in float64 is compared with float32.

    Raises:
        ValueError: the task is none, or has no continuous hyperparameter; its problem
            cannot be differentiated; a bad step or seed.
    """
    task = tasks.resolve(task)
    require_seed(seed)
    require_arguments(diagnose, coordinates=coordinates, precision=precision)
    if not 0 < number_of("step", step) < math.inf:
        raise ValueError(
            f"diagnose needs 0 < step < inf, but got {step}: 0.03 is 3 % of a Positive"
        )
    task = conditioned(task, seed)
    problem = sampled(task, seed)
    look = _Look(task, problem, seed, float(step))
    try:
        return look.diagnosis(coordinates, precision)
    except KeyError:
        require_names(problem, task.space.trim(task.space.initial()))
        raise


class _Look:
    """What is looked at, and what it has cost so far."""

    def __init__(
        self, task: Task, problem: BilevelProblem, seed: int, step: float
    ) -> None:
        self.task, self.problem, self.seed, self.step = task, problem, seed, step
        self.coordinates = Coordinates(task.space, problem.device)
        self.x = self.coordinates.start()
        self.hparams = self.coordinates.hparams(self.x)
        self.times = _times(task.horizon)
        self.cost = 0.0

    def diagnosis(self, coordinates: bool | None, precision: bool | None) -> Diagnosis:
        """Look at all, until something is at fault."""
        Checkpointed(self.task.horizon).init(self.problem, self.hparams)
        states, recorded = self._recorded()
        value = outer_value(self.problem, states[-1], self.hparams)
        if fault := self._fault(value):
            return self._end(value, fault=fault)
        own = precision_of(self.problem, self.hparams)
        found = self._estimate(self.problem, states, recorded)
        gradient = self.coordinates.gradient(self.x, found.grads)
        if not all(bool(torch.isfinite(g).all()) for g in found.grads.values()):
            fault = (
                f"the hypergradient is not finite, but E is {value:.4g}: a larger eps "
                "in the optimizer, clipping, or a shorter horizon"
            )
            return self._end(value, fault=fault)
        steepest = int(gradient.abs().argmax())
        largest = float(gradient.abs().max())
        v = gradient / largest if largest else torch.ones_like(gradient)
        rounding = ROUNDINGS * torch.finfo(own).eps * abs(value) / self.step
        along, (below, above) = self._slope("gradient", gradient, v, rounding)
        tangent = [
            distance(a, b) / (2 * self.step) for a, b in zip(below, above, strict=True)
        ]
        slopes = [along]
        others = [i for i in range(len(self.x)) if i != steepest]
        for i in others if coordinates else ():
            unit = torch.zeros_like(self.x)
            unit[i] = 1.0
            name = self._names()[i]
            slopes.append(self._slope(name, gradient, unit, rounding)[0])
        if coordinates is None and 0 < len(others) < FEW and self._covers_run():
            bend = abs(along.below + along.above - 2 * value) / (2 * self.step)
            slopes.append(self._ahead(others, gradient, value, 2 * rounding + bend))
        total, square = float(gradient.abs().sum()), float(gradient.square().sum())
        smoothness = metasmoothness(below[-1], states[-1], above[-1])
        return self._end(
            value,
            slopes=tuple(slopes),
            smoothness=smoothness,
            weights=sum(w.numel() for w in weights(states[-1])),
            effective=total**2 / square if square else 0.0,
            steepness=total / abs(value) if value else math.inf,
            times=tuple(self.times),
            adjoint=tuple(found.norms),
            tangent=tuple(tangent),
            precision=tuple(self._precisions(own, v, precision)),
        )

    def _end(self, value: float, **found: Any) -> Diagnosis:
        space = self.task.space
        return Diagnosis(
            task=self.task.name,
            seed=self.seed,
            horizon=self.task.horizon,
            point=space.point(self.hparams),
            outer_loss=value,
            step=self.step,
            non_smooth=tuple(non_smooth_parts(self.problem, self.hparams)),
            hyperparameters=len(self.x),
            validation_size=self.problem.validation_size,
            gradient_evals=self.cost,
            **found,
        )

    # ------------------------------------------------------------------------- runs

    def _run(self, hparams: Hparams) -> list[State]:
        """The states of a plain run, charged with E at its end."""
        self.cost += plain_cost(self.problem, self.task.horizon)
        return run_through(self.problem, hparams, self.times)

    def _plain(self, x: Tensor) -> tuple[list[State], float]:
        hparams = self.coordinates.hparams(x)
        states = self._run(hparams)
        return states, outer_value(self.problem, states[-1], hparams)

    def _recorded(self) -> tuple[list[State], Recorded | None]:
        """The same at the start, with the graph where there is room for it."""
        if self.task.horizon * step_graph_bytes(self.problem, self.hparams) > ROOM:
            return self._run(self.hparams), None
        self.cost += plain_cost(self.problem, self.task.horizon)
        return record(self.problem, self.hparams, self.times)

    def _covers_run(self) -> bool:
        """Whether another plain run is within what is spent unasked."""
        run = plain_cost(self.problem, self.task.horizon)
        return BudgetMeter(RUNS * run, self.cost).covers(run)

    def _estimate(
        self,
        problem: BilevelProblem,
        states: list[State],
        recorded: Recorded | None = None,
    ) -> Sensitivity:
        """Reverse mode through a run that is charged already: 2 T and E's gradient.

        And T more where its steps were not recorded.
        """
        passes = 3 if recorded is None else 2
        self.cost += passes * self.task.horizon + problem.outer_cost * 2 / 3
        return differentiate(problem, self.hparams, self.times, states, recorded)

    def _ahead(
        self, others: list[int], gradient: Tensor, value: float, off: float
    ) -> Slope:
        """Exact slope and one-sided difference along several coordinates, uphill."""
        u = torch.zeros_like(self.x)
        u[others] = torch.where(gradient[others] < 0, -1.0, 1.0).to(u.dtype)
        high = self.coordinates.project(self.x + self.step * u)
        if torch.equal(high, self.x):
            high = self.coordinates.project(self.x - self.step * u)
        _, e_high = self._plain(high)
        exact = float(gradient @ (high - self.x)) / self.step
        name = ", ".join(self._names()[i] for i in others)
        difference = (e_high - value) / self.step
        return Slope(name, exact, difference, value, e_high, off)

    def _slope(
        self, name: str, gradient: Tensor, v: Tensor, rounding: float
    ) -> tuple[Slope, tuple[list[State], list[State]]]:
        """Exact slope and difference along v, as far as the bounds let it go."""
        low, high = (
            self.coordinates.project(self.x + sign * self.step * v) for sign in (-1, 1)
        )
        (below, e_below), (above, e_above) = map(self._plain, (low, high))
        exact = float(gradient @ (high - low)) / (2 * self.step)
        difference = (e_above - e_below) / (2 * self.step)
        slope = Slope(name, exact, difference, e_below, e_above, rounding)
        return slope, (below, above)

    def _fault(self, value: float) -> str:
        """Why there is nothing to differentiate; "" where there is."""
        if not math.isfinite(value):
            return (
                f"training diverges at the start (E = {value}): start elsewhere, or "
                "narrow the space"
            )
        return "" if is_repeatable(self.problem, self.hparams) else UNSEEDED

    # ------------------------------------------------------------------ what is beside

    def _precisions(
        self, own: torch.dtype, v: Tensor, asked: bool | None
    ) -> Iterator[Precision]:
        """E in another precision, and with `asked` its slope, and E in bfloat16."""
        other = torch.float32 if own == torch.float64 else torch.float64
        why = ""
        if asked is False or (asked is None and not self._covers_run()):
            why = "ask for it: precision=True"
        why = why or why_not_cast(self.problem, self.hparams, other, own)
        yield self._precision(other, own, v if asked else None, why)
        if asked:
            half = torch.bfloat16
            why = why or why_not_cast(self.problem, self.hparams, half, own)
            yield self._precision(half, own, None, why)

    def _precision(
        self, dtype: torch.dtype, own: torch.dtype, v: Tensor | None, why: str
    ) -> Precision:
        name, slope = str(dtype).removeprefix("torch."), math.nan
        if why:
            return Precision(name, math.nan, slope, why)
        cast = cast_problem(self.problem, dtype, own)
        self.cost += plain_cost(self.problem, self.task.horizon)
        states = run_through(cast, self.hparams, self.times)
        value = outer_value(cast, states[-1], self.hparams)
        if v is not None:
            found = self._estimate(cast, states)
            slope = float(self.coordinates.gradient(self.x, found.grads) @ v)
        return Precision(name, value, slope, "")

    def _names(self) -> list[str]:
        """The flat names of the coordinates, in their order."""
        used = self.task.space.used(self.hparams).items()
        return [name for name, domain in used if not isinstance(domain, Choice)]


def _times(horizon: int) -> list[int]:
    """About √T times from 0 to T, evenly."""
    count = math.isqrt(horizon - 1) + 1
    return [round(i * horizon / count) for i in range(count + 1)]
