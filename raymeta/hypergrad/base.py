"""Estimators of the hypergradient: their protocol, and the pieces that they share."""

import hashlib
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

from raymeta import display
from raymeta._tree import detach, is_differentiable, tree_leaves
from raymeta.autograd.double_backward import (
    require_twice_differentiable as require_twice_differentiable,
)
from raymeta.distributed.sharded import full
from raymeta.errors import require_types, said
from raymeta.hypergrad.compiled import Compiled
from raymeta.hypergrad.preflight import recording
from raymeta.optim import Optimizer
from raymeta.optim.base import as_real
from raymeta.problem import BilevelProblem, ValidationLoss, known, require_scalar
from raymeta.types import Hparams, State, Tensors


class Hypergradient(NamedTuple):
    """An outer loss and its derivative.

    Attributes:
        outer_loss: E, shape ().
        grads: dE/dλ in natural values, one entry per differentiable hyperparameter, of
            its shape.
        gradient_evals: what the estimate cost; one forward and backward pass of the
            inner loss is 1.
        residual: |b - A x| / |b| of the linear system that the estimate solved; of a
            look that was compared with a shorter one (`raymeta.outer.look_ahead`), the
            share of scalar hyperparameters whose derivatives have opposite signs. None
            where there is neither.
    """

    outer_loss: Tensor
    grads: Tensors
    gradient_evals: float
    residual: float | None = None

    def __repr__(self) -> str:
        about = f"gradient_evals={self.gradient_evals:g}"
        if self.residual is not None:
            about += f", residual={self.residual:.3g}"
        return (
            f"Hypergradient(outer_loss={display.short(self.outer_loss)}, "
            f"grads=({display.entries(self.grads)}), {about})"
        )

    def _repr_html_(self) -> str:
        rows = {"outer loss": self.outer_loss, "gradient evals": self.gradient_evals}
        slopes = {f"dE/d{name}": value for name, value in self.grads.items()}
        return display.table("Hypergradient", rows | slopes)

    def plot(self) -> Any:
        """A figure of the derivatives by flat name."""
        title = f"hypergradient at E = {display.short(self.outer_loss)}"
        return display.figures().draw_gradient(display.flat(self.grads), title)


class Rollout(NamedTuple):
    """Where training stands.

    Attributes:
        state: s_t, cut from every graph.
        step: t.
        carry: what an estimator carries along (forward mode: ds_t/dλ).
    """

    state: State
    step: int
    carry: Any = None

    def __repr__(self) -> str:
        count = sum(isinstance(x, Tensor) for x in tree_leaves(self.state))
        carried = ", with a carry" * (self.carry is not None)
        return f"Rollout(step={self.step}, a state of {count} tensors{carried})"


class Estimator(Protocol):
    """A way of computing dE/dλ: a frozen dataclass with its own knobs only."""

    @property
    def steps(self) -> int:
        """How many training steps one estimate advances."""
        ...

    @property
    def continues(self) -> bool:
        """Whether an estimate goes on from its rollout rather than from s_0."""
        ...

    def init(self, problem: BilevelProblem, hparams: Hparams) -> Rollout:
        """The start of a training run at λ."""
        ...

    def estimate(
        self, problem: BilevelProblem, hparams: Hparams, rollout: Rollout
    ) -> tuple[Hypergradient, Rollout]:
        """Train on from the rollout; return dE/dλ and where training stands then."""
        ...

    def cost(self, problem: BilevelProblem, hparams: Hparams) -> float:
        """What one estimate charges, in gradient evaluations."""
        ...


SomeEstimator = TypeVar("SomeEstimator", bound=Estimator)

#: Metadata of a field that counts some of an estimator's steps: `with_steps` cuts it to
#: their number.
AMONG_STEPS = {"among_steps": True}
#: Metadata of a field with the estimator, or several, that do an estimator's steps.
INNER = {"inner": True}


def with_steps(estimator: SomeEstimator, steps: int) -> SomeEstimator:
    """The same estimator over another number of steps."""
    knobs = cast(Any, estimator)
    for field in fields(knobs):
        if field.metadata.get("inner"):
            inner = getattr(knobs, field.name)
            several = isinstance(inner, list | tuple)
            cut = [with_steps(one, steps) for one in (inner if several else [inner])]
            return replace(knobs, **{field.name: tuple(cut) if several else cut[0]})
    shorter = {
        field.name: min(getattr(knobs, field.name), steps)
        for field in fields(knobs)
        if field.metadata.get("among_steps") and getattr(knobs, field.name) is not None
    }
    return replace(knobs, steps=steps, **shorter)


#: More steps than any run takes.
MOST_STEPS = 10**9


def require_settings(estimator: "Estimator") -> None:
    """Raise ValueError unless its fields have their types and its steps can be taken.

    Args:
        estimator: a dataclass with a field `steps`.
    """
    require_types(estimator)
    name, steps = type(estimator).__name__, estimator.steps
    if steps < 1:
        raise ValueError(f"{name} needs steps >= 1, but got steps={steps}")
    if steps > MOST_STEPS:
        raise ValueError(f"{name} needs steps <= {MOST_STEPS:,}, but got steps={steps}")


def require_share(estimator: str, val_share: float | None) -> None:
    """Raise ValueError unless the share of a look at validation data is positive."""
    if val_share is not None and not val_share > 0:
        raise ValueError(
            f"{estimator} needs val_share > 0, but got val_share={val_share}: leave it "
            "out to look at all validation examples"
        )


def require_estimator(given: object, steps: int) -> None:
    """Raise ValueError unless an object is an estimator.

    Args:
        given: maybe a class of estimators, or an optimizer.
        steps: how many the estimator has that may be meant.
    """
    kind = given if isinstance(given, type) else type(given)
    rule = "an estimator of the hypergradient is an object such as"
    if issubclass(kind, torch.optim.Optimizer | Optimizer):
        raise ValueError(
            f"{rule} Reverse({steps}), but got the optimizer {kind.__name__}: that of "
            "the weights belongs to the problem, as in module_problem(optimizer=…)"
        )
    if isinstance(given, type):
        raise ValueError(
            f"{rule} Reverse({steps}), but got the class {kind.__name__}: pass "
            f"{kind.__name__}({steps})"
        )
    parts = ("steps", "continues", "init", "estimate", "cost")
    if lacking := [part for part in parts if not hasattr(given, part)]:
        raise ValueError(
            f"{rule} Reverse({steps}), but {said(given)} has no {lacking[0]}: pass an "
            "estimator"
        )


def start(problem: BilevelProblem, hparams: Hparams) -> Rollout:
    """The start of a training run: s_0 at step 0, nothing carried."""
    return Rollout(detach(problem.init(hparams)), 0)


def differentiable(hparams: Hparams) -> Tensors:
    """The hyperparameters that have a derivative, as fresh leaves of a graph.

    Raises:
        ValueError: there is none.
    """
    leaves = {
        name: value.detach().requires_grad_()
        for name, value in hparams.items()
        if is_differentiable(value)
    }
    if not leaves:
        raise ValueError(
            "a hypergradient needs at least one floating-point tensor among the "
            f"hyperparameters, but got {dict(hparams)}: pass torch.tensor(0.1), not 0.1"
        )
    return leaves


def unroll(
    problem: BilevelProblem, hparams: Hparams, state: State, t: int, steps: int
) -> State:
    """s_{t+steps} from s_t."""
    batches = map(problem.batch, range(t, t + steps))
    if isinstance(problem.step, Compiled):
        return problem.step.unroll(state, hparams, batches)
    for batch in batches:
        state = problem.step(state, hparams, batch)
    return state


def advance(
    problem: BilevelProblem, hparams: Hparams, state: State, t: int, steps: int
) -> State:
    """s_{t+steps} from s_t, without a graph."""
    if isinstance(problem.step, Compiled):
        with torch.no_grad():
            return unroll(problem, hparams, state, t, steps)
    hparams, state = detach(hparams), detach(state)
    return detach(unroll(problem, hparams, state, t, steps))


def plain_cost(problem: BilevelProblem, steps: int) -> float:
    """Charge for training without hypergradient, and the outer loss at the end.

    An outer loss without its gradient is a third of a forward and backward pass.
    """
    return steps + problem.outer_cost / 3


def validation_batch(
    problem: BilevelProblem, share: float | None = None, cost: float = 0.0
) -> int | None:
    """How many validation examples an estimate looks at; None for E as it is.

    Args:
        problem: whose outer loss may be a `ValidationLoss`, which may say so itself;
            any other is taken whole.
        share: see `ShortTerm.val_share`.
        cost: charge for the estimate without its outer loss.
    """
    loss = problem.outer_loss
    if not isinstance(loss, ValidationLoss):
        return None
    count = loss.size if loss.sample is None else loss.sample
    if share is not None:
        most = int(loss.size * share * cost / problem.outer_cost)
        count = min(count, max(1, most))
    return count if count < loss.size else None


def outer_loss_of(
    problem: BilevelProblem, count: int | None, look: int
) -> Callable[[State, Hparams], Tensor]:
    """(s, λ) -> E, or its mean over one batch of validation examples.

    Args:
        problem: whose E it is.
        count: see `validation_batch`.
        look: which batch.
    """
    loss = problem.outer_loss
    if count is None:
        return loss
    assert isinstance(loss, ValidationLoss)
    index = loss.batch(count, look)
    return lambda state, hparams: loss.over(state, hparams, index)


def outer_loss_at(
    problem: BilevelProblem, hparams: Hparams
) -> Callable[[State, Hparams], Tensor]:
    """(s, λ) -> E as an estimate from s_0 at λ looks at it.

    Where that is a batch of validation examples, it is a function of λ: another at
    another λ, and the same whenever the estimate is made again.
    """
    count = validation_batch(problem)
    if count is None:
        return problem.outer_loss
    digest = hashlib.blake2b(digest_size=6)
    for value in differentiable(hparams).values():
        digest.update(as_real(value.detach()).cpu().double().numpy().tobytes())
    return outer_loss_of(problem, count, int.from_bytes(digest.digest()))


def outer_loss_cost(problem: BilevelProblem, count: int | None) -> float:
    """Charge for one forward and backward pass of that."""
    if count is None:
        return problem.outer_cost
    assert isinstance(problem.outer_loss, ValidationLoss)
    return problem.outer_cost * count / problem.outer_loss.size


def estimated_loss_cost(problem: BilevelProblem) -> float:
    """Charge for a forward and backward pass of E as an estimate looks at it."""
    return outer_loss_cost(problem, validation_batch(problem))


def whole_loss_cost(problem: BilevelProblem) -> float:
    """Charge for E over all where an estimate looks at a batch of it, else 0."""
    return 0.0 if validation_batch(problem) is None else plain_cost(problem, 0)


def look_ahead_cost(problem: BilevelProblem, hparams: Hparams, steps: int) -> float:
    """Charge for differentiating `steps` steps from a fixed s_t, without E's gradient.

    The first inner gradient is taken at the fixed s_t, so differentiating it costs
    nothing unless λ is in the inner loss itself.
    """
    first = 3 if _inner_loss_depends(problem, hparams) else 1
    return first + 3 * (steps - 1)


def _inner_loss_depends(problem: BilevelProblem, hparams: Hparams) -> bool:
    if problem.inner_loss is None:
        return True
    with recording():
        leaves = differentiable(hparams)
        live = known({**hparams, **leaves})
        state = detach(problem.init(live))
        value = problem.inner_loss(state, live, problem.batch(0))
        require_scalar("inner_loss", value)
        if not value.requires_grad:
            return False
        # It may require a gradient for what else it closes over.
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return any(g is not None for g in grads)


def pull_back(outer_loss: Tensor, leaves: Tensors, hint: str = "") -> Tensors:
    """dE/dλ by reverse mode.

    Raises:
        ValueError: the outer loss does not depend on a hyperparameter; `hint` says what
            may help.
    """
    if not outer_loss.requires_grad:
        raise disconnected(list(leaves), hint)
    grads = torch.autograd.grad(outer_loss, list(leaves.values()), allow_unused=True)
    missing = [name for name, g in zip(leaves, grads, strict=True) if g is None]
    if missing:
        raise disconnected(missing, hint)
    return dict(zip(leaves, map(full, grads), strict=True))


def disconnected(names: list[str], hint: str = "") -> ValueError:
    """The error for hyperparameters that the outer loss does not depend on."""
    listed = ", ".join(repr(name) for name in names)
    return ValueError(
        f"the outer loss does not depend on hyperparameter {listed}: use it in init, "
        "step or outer_loss (without .item() or .detach()), leave it out, or say at "
        f"which options it is used: Space(..., when=...){hint}"
    )
