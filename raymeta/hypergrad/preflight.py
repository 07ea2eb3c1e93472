"""Preflight checks of a problem and of λ, before step 1 of any estimator."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from raymeta._tree import (
    detach,
    is_differentiable,
    named_leaves,
    partition,
    tree_leaves,
)
from raymeta.autograd.double_backward import (
    REMEDY,
    marked_backward_passes,
    not_twice,
    require_twice_differentiable,
)
from raymeta.autograd.surrogate_gradients import (
    arguments_of,
    users_own,
    warn_of_surrogates,
)
from raymeta.distributed.agreement import telling_lost_ranks
from raymeta.distributed.collectives import collectives_in, require_no_lost_derivative
from raymeta.distributed.sharded import note_sharded, require_full
from raymeta.problem import (
    BilevelProblem,
    Descent,
    ValidationLoss,
    known,
    require_scalar,
)
from raymeta.types import Batch, Hparams, State

Method = TypeVar("Method", bound=Callable[..., Any])
#: By what a step must have a derivative: by nothing, by λ at a fixed state, or by both.
#: Where it contains a gradient, that is a second one.
Through = Literal["", "hparams", "state"]

#: What torch says where an operator, or a tensor, has no derivative.
NO_DERIVATIVE = re.compile(
    r"derivative|differentia|autograd|requires? grad|\.grad\(|must be \w+, not Tensor"
)
INFERENCE = re.compile(r"[Ii]nference")


def differentiating(method: Method) -> Method:
    """An estimator's (problem, λ, …) with autograd on, whatever it is called within.

    `torch.no_grad()` and `torch.inference_mode()` around it are its caller's affair.
    """

    @wraps(method)
    def run(self: Any, problem: BilevelProblem, hparams: Hparams, *rest: Any) -> Any:
        with recording(), telling_lost_ranks():
            return method(self, problem, ordinary(hparams), *rest)

    return cast(Method, run)


@contextmanager
def recording() -> Iterator[None]:
    """Autograd on, and no inference mode."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def ordinary(hparams: Hparams) -> Hparams:
    """λ outside inference mode, whose tensors have no derivative."""
    return {
        name: x.clone() if isinstance(x, Tensor) and x.is_inference() else x
        for name, x in hparams.items()
    }


def require_sound(
    problem: BilevelProblem,
    hparams: Hparams,
    *,
    derivatives: bool = True,
    through: Through = "",
) -> None:
    """Ask, once for a problem, whether it keeps to what `BilevelProblem` says.

    By one step, and the outer loss after it. λ is looked at each time.

    Args:
        problem: what is trained.
        hparams: λ.
        derivatives: ask for first derivatives of the step and the outer loss, too.
        through: by what a step must be differentiable in reverse mode.

    Raises:
        ValueError: λ is not finite, or lacks a name that the problem reads; a batch is
            not the same each time; a step returns another structure than it got; a loss
            is not of shape (); an operator has no such derivative, or tensors made in
            inference mode.
    """
    _require_finite(hparams)
    asked = problem.traced.setdefault("asked", set())
    if (derivatives, through) in asked:
        return
    with torch.set_grad_enabled(derivatives), marked_backward_passes() as pulled:
        _ask(problem, hparams, through)
        told = problem.traced.setdefault("surrogates", set())
        functions = [cls for cls in users_own(pulled) if cls not in told]
        if derivatives and functions:
            told.update(functions)
            with arguments_of(functions) as found:
                _ask(problem, hparams, through)
            warn_of_surrogates(found, pulled)
    asked |= {(derivatives, through), (derivatives, ""), (False, "")}


def _ask(problem: BilevelProblem, hparams: Hparams, through: Through) -> None:
    leaves = {name: _leaf(x) for name, x in hparams.items() if is_differentiable(x)}
    live = known({**hparams, **leaves})
    s_0 = detach(problem.init(live))
    note_sharded(problem, s_0)
    _require_outside_inference("init(λ)", s_0)
    batch = _require_batch(problem)
    s_1 = _ask_step(problem, live, s_0, batch, through)
    values, state = _leaves(s_1)
    with _derivatives_of("the outer loss"):
        if problem.inner_loss is not None and not isinstance(problem.step, Descent):
            require_scalar("inner_loss", problem.inner_loss(state, live, batch))
        outer_loss = _first_pass(problem)(state, live)
        require_scalar("outer_loss", outer_loss)
        require_full("outer_loss", outer_loss)
        if outer_loss.requires_grad:
            inputs = [*values, *leaves.values()]
            require_twice_differentiable(outer_loss, inputs=inputs)
            torch.autograd.grad(outer_loss, inputs, allow_unused=True)


def _first_pass(problem: BilevelProblem) -> Callable[[State, Hparams], Tensor]:
    """E, or that of its first mini-batch: what it is made of is the same in all."""
    loss = problem.outer_loss
    if not isinstance(loss, ValidationLoss) or loss.batch_size is None:
        return loss
    index = torch.arange(min(loss.batch_size, loss.size))
    return lambda state, hparams: loss.mean(state, hparams, index)


def _ask_step(
    problem: BilevelProblem, live: Hparams, s_0: State, batch: Batch, through: Through
) -> State:
    """s_1, without its graph."""
    inputs = [x for x in live.values() if is_differentiable(x)]
    state = s_0
    if through != "hparams":
        values, state = _leaves(s_0)
        inputs += values
    with _derivatives_of("a step"), collectives_in(problem):
        s_1 = problem.step(state, live, batch)
    require_no_lost_derivative(problem)
    require_alike(s_0, s_1)
    if through:
        require_pullback(s_1, inputs)
    return detach(s_1)


def require_pullback(outputs: Any, inputs: list[Tensor], remedy: str = REMEDY) -> None:
    """Raise ValueError where what contains a derivative has none by these tensors.

    It must have been computed within `marked_backward_passes`.
    """
    ends = [end for end in partition(outputs)[0] if end.requires_grad]
    require_twice_differentiable(ends, inputs, remedy)
    if not ends:
        return
    ones = [torch.ones_like(end) for end in ends]
    try:
        torch.autograd.grad(ends, inputs, ones, retain_graph=True, allow_unused=True)
    except RuntimeError as error:  # of which NotImplementedError is one
        raise not_twice(f"torch says: {_first_line(error)}", remedy) from error


def require_real(estimator: str, hparams: Hparams) -> None:
    """Raise ValueError where a hyperparameter is complex."""
    for name, value in hparams.items():
        if isinstance(value, Tensor) and value.is_complex():
            raise ValueError(
                f"{estimator} needs real hyperparameters, but {name!r} is "
                f"{value.dtype}: give its real and imaginary parts, or use Reverse"
            )


def _require_finite(hparams: Hparams) -> None:
    for name, value in hparams.items():
        if is_differentiable(value) and not bool(torch.isfinite(value).all()):
            seen = value.tolist() if value.numel() == 1 else "some that are not"
            raise ValueError(
                f"hyperparameter {name!r} needs finite values, but got {seen}: look at "
                "what computed it"
            )


def _require_batch(problem: BilevelProblem) -> Batch:
    """b_0, which must be the same each time."""
    batch, again = problem.batch(0), problem.batch(0)
    if not isinstance(batch, Batch):
        raise ValueError(
            "batch(t) must return raymeta.Batch(index, data), but returned a "
            f"{type(batch).__name__}: write raymeta.Batch(torch.tensor(t), data)"
        )
    if not isinstance(batch.index, Tensor):
        raise ValueError(
            "batch(t) must give the step as a tensor, but got "
            f"index={batch.index!r}: write raymeta.Batch(torch.tensor(t), data)"
        )
    _require_outside_inference("batch(0)", batch)
    one, other = named_leaves(batch), named_leaves(again)
    differing = [k for k in one if k not in other or not _same(one[k], other[k])]
    if differing or len(one) != len(other):
        raise ValueError(
            "batch(t) must be the same for the same t, but two calls of batch(0) "
            f"differ in {', '.join(differing) or 'structure'}: draw from a "
            "torch.Generator seeded by t, or index fixed data by t"
        )
    return batch


def _same(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    equal = (one == other) | ((one != one) & (other != other))  # NaN is the same NaN
    return bool(equal.all())


def require_alike(before: State, after: State) -> None:
    """Raise ValueError where a step returned another structure than it got."""
    one, other = named_leaves(before), named_leaves(after)
    fault = ""
    for path in (*one, *other):
        got, gave = (
            _kind(leaves[path]) if path in leaves else "nothing"
            for leaves in (one, other)
        )
        if got != gave:
            fault = f"state{path} was {got} and came back as {gave}"
            break
    if fault:
        raise ValueError(
            f"step must return a state like the one it got, but {fault}: keep names, "
            "shapes and dtypes from init on"
        )


def _kind(leaf: Any) -> str:
    if isinstance(leaf, Tensor):
        return f"{tuple(leaf.shape)} of {leaf.dtype}"
    return f"a {type(leaf).__name__}"


def _require_outside_inference(name: str, tree: Any) -> None:
    if any(isinstance(x, Tensor) and x.is_inference() for x in tree_leaves(tree)):
        raise _within_inference(f"{name} has tensors that were made within it")


def _within_inference(fault: str) -> ValueError:
    return ValueError(
        "tensors of torch.inference_mode() have no derivative, but "
        f"{fault}: make them outside, or .clone() them there"
    )


@contextmanager
def _derivatives_of(what: str) -> Iterator[None]:
    """Say in one line what torch says of operators that have no derivative."""
    try:
        yield
    except (RuntimeError, TypeError) as error:  # of arguments that are numbers alone
        told = _first_line(error)
        if INFERENCE.search(told):
            raise _within_inference(f"{what} uses some") from error
        if NO_DERIVATIVE.search(told):
            raise ValueError(
                f"{what} needs operators with a derivative, but torch says: {told}; "
                f"{REMEDY}"
            ) from error
        raise


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _leaf(x: Tensor) -> Tensor:
    x = x.detach().clone() if x.is_inference() else x.detach()
    return x.requires_grad_(torch.is_grad_enabled())


def _leaves(state: State) -> tuple[list[Tensor], State]:
    """The same state of fresh leaves of a graph, and these."""
    values, rest, merge = partition(state)
    values = [_leaf(x) for x in values]
    return values, merge(values, rest)
