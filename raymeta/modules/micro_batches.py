"""Micro-batches: a training step whose batch is passed through in parts."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from raymeta._tree import (
    detach,
    in_transform,
    is_differentiable,
    tree_leaves,
    tree_map,
)
from raymeta.autograd.accumulation import accumulated, accumulated_trees
from raymeta.compile.dispatch import dtypes_in
from raymeta.errors import require_arguments
from raymeta.modules.parts import (
    Part,
    differing,
    random_axes,
    rows,
    rows_of,
    tolerance_of,
)
from raymeta.modules.share import Axes, Share, sharing
from raymeta.problem import BilevelProblem, Descent, Known, TrainState
from raymeta.types import Batch, Hparams, State, Tensors

RULE = (
    "micro_batches needs an inner loss that is the mean over its examples (a mean of "
    "each one's own loss, no weights by class or by count, no random numbers but "
    "raymeta's)"
)


@dataclass(frozen=True)
class MicroBatched(Descent):
    """Φ for gradient-based training, a batch passed through in parts.

    Attributes:
        micro_batches: n, of sizes that differ by one example at most.
        axes: where random tensors have the examples; see `Share`.
    """

    micro_batches: int
    axes: list[Axes]

    def value_and_gradient(
        self, params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The loss, its gradient in the parameters, and the new buffers."""
        # Not in the state's graph: training leaves them as they are.
        moving = {k: b for k, b in buffers.items() if is_differentiable(b)}
        others: dict[str, Tensor] = {}

        def weighted(
            part: Part, params: Tensors, moving: Tensors, hparams: Hparams
        ) -> tuple[Tensor, Tensors]:
            given = {**buffers, **moving}
            with self._share(part) as share:
                loss, grads, after = Descent.value_and_gradient(
                    self, params, given, hparams, rows_in(batch, part)
                )
            require_still(given, after)
            others.update({k: b for k, b in after.items() if k not in moving})
            return tree_map(lambda x: x * share.weight, (loss, grads))

        terms = [partial(weighted, part) for part in self.parts(batch)]
        at = (params, moving, hparams)
        live = (isinstance(x, Tensor) and x.requires_grad for x in tree_leaves(at))
        if in_transform() or not torch.is_grad_enabled() or not any(live):
            total = terms[0](*at)
            for term in terms[1:]:
                total = tree_map(torch.add, total, term(*at))
        else:
            total = accumulated_trees(terms, *at)
        loss, grads = total
        return loss, grads, {**buffers, **others}

    def loss(self, state: TrainState, hparams: Hparams, batch: Batch) -> Tensor:
        """The inner loss, with the graph of one micro-batch at a time."""

        def weighted(part: Part, state: TrainState, hparams: Hparams) -> Tensor:
            with self._share(part) as share:
                found, _ = self.inner_loss(
                    state.params, state.buffers, hparams, rows_in(batch, part)
                )
            return found * share.weight

        terms = [partial(weighted, part) for part in self.parts(batch)]
        return accumulated(terms, state, hparams)

    def parts(self, batch: Batch) -> list[Part]:
        """Which examples of a batch go together.

        Raises:
            ValueError: there are too few, or tensors of other numbers of rows.
        """
        total, n = rows_of(batch.data, "micro_batches"), self.micro_batches
        if total < n:
            raise ValueError(
                f"micro_batches={n} needs as many examples in a batch, but that of "
                f"step {int(batch.index)} has {total}: raise batch_size, or take fewer"
            )
        stops = [i * total // n for i in range(n + 1)]
        return [Part(a, b - a, total) for a, b in pairwise(stops)]

    def _share(self, part: Part) -> Any:
        return sharing(Share(*part, _no_total, self.axes[0] if self.axes else None))


def micro_batched(problem: BilevelProblem, micro_batches: int) -> BilevelProblem:
    r"""The same problem, its training batches passed through in parts.

    $$ f(w, \lambda, b) = \sum_{k=1}^n \frac{|b_k|}{|b|} f(w, \lambda, b_k),\qquad
       \alpha \frac{\partial \nabla f}{\partial (w, \lambda)} =
       \sum_k \frac{|b_k|}{|b|}
       \alpha \frac{\partial \nabla f_k}{\partial (w, \lambda)} $$

    The gradient, and the pullback of its cotangent α, are sums over micro-batches, of
    which one's graph is alive at a time: the numbers of one pass, random ones included,
    which are those of (seed, t, example). A hypergradient passes each micro-batch
    through once more than without. Forward mode only adds up.

    Args:
        problem: of `descent` or `module_problem`; its batches have examples in the rows
            of their tensors, its inner loss is a mean over them.
        micro_batches: n, at most the examples of a batch.

    Raises:
        ValueError: n is below 1, or a batch has fewer examples; the steps are no
            gradient descent. From `init`, before step 1: the inner loss of some
            examples is not the mean of its parts', as with weights by class, or with
            batch norms that normalize by a batch. From estimators: compiled steps.
    """
    require_arguments(micro_batched, problem=problem, micro_batches=micro_batches)
    if micro_batches < 1:
        raise ValueError(
            f"micro_batches must be at least 1, but got {micro_batches}: leave it out "
            "for one pass"
        )
    whole = problem.step
    if type(whole) is not Descent:
        raise ValueError(
            "micro_batches needs steps that are gradient descent on an inner loss, but "
            f"got a step that is {type(whole).__name__}: make the problem by descent "
            "or module_problem"
        )
    if micro_batches == 1:
        return problem
    step = MicroBatched(whole.inner_loss, whole.optimizer, micro_batches, [])
    step.parts(problem.batch(0))

    def init(hparams: Hparams) -> State:
        state = problem.init(hparams)
        if not (step.axes or in_transform() or type(hparams) not in (dict, Known)):
            _require_exact(whole, step, problem.batch(0), dict(hparams), state)
        return state

    return replace(problem, init=init, step=step, inner_loss=step.loss)


def require_one_pass(problem: BilevelProblem, what: str) -> None:
    """Raise ValueError where steps pass micro-batches through, and cannot here.

    Args:
        problem: whose steps they are.
        what: needs a batch in one pass.
    """
    if isinstance(problem.step, MicroBatched):
        raise ValueError(
            f"{what} passes a batch through as a whole, but got micro_batches="
            f"{problem.step.micro_batches}: leave one of them out"
        )


def rows_in(batch: Batch, part: Part) -> Batch:
    """A part of a batch."""
    return batch._replace(data=rows(batch.data, part))


def require_still(before: Tensors, after: Tensors) -> None:
    """Raise ValueError where a training pass has moved a buffer of real numbers."""
    for name, b in before.items():
        if not is_differentiable(b) or after[name] is b or in_transform():
            continue
        if not torch.equal(after[name], b):
            raise ValueError(
                f"micro_batches needs buffers that training leaves alone, but {name!r} "
                "moves with each pass: leave micro_batches out, or set batch_norm="
                "'frozen' where it is a batch norm's"
            )


def _no_total(x: Tensor) -> Tensor:
    raise ValueError(
        "micro_batches cannot take batch norms in training mode, whose moments are of "
        "the whole batch: set batch_norm='frozen', use group or layer norms, or leave "
        "micro_batches out"
    )


def _require_exact(
    whole: Descent, step: MicroBatched, batch: Batch, hparams: Hparams, state: State
) -> None:
    """Raise ValueError unless a few examples in parts give what they give in one pass.

    Finds where random tensors have the examples.
    """
    hparams, state = detach((hparams, state))
    total = rows_of(batch.data, "micro_batches")
    size = min(total, 2 * step.micro_batches + 1)
    some = rows_in(batch, Part(0, size, size))
    part = step.parts(some)[0]
    at = (state.params, state.buffers, hparams)
    with torch.no_grad():
        axes = random_axes(
            lambda: whole.inner_loss(*at, some),
            lambda: whole.inner_loss(*at, rows_in(some, part)),
            part,
        )
        with dtypes_in() as seen:
            loss, grads, _ = whole.value_and_gradient(*at, some)
        step.axes.append(axes)
        try:
            found = step.value_and_gradient(*at, some)
            tolerance = tolerance_of(seen)
            # Where it is 0 but for rounding, its own size tells nothing.
            most = max(float(g.abs().max()) for g in grads.values() if g.numel())
            like = {k: torch.full_like(g, most) for k, g in grads.items()}
            ours = {k: like[k] + found[1][k] - g for k, g in grads.items()}
            if differing({"": loss}, {"": found[0]}, tolerance) is not None:
                raise ValueError(
                    f"{RULE}, but that of {size} examples is {float(loss):.6g} in one "
                    f"pass and {float(found[0]):.6g} in {step.micro_batches}: take "
                    "such a mean, or leave micro_batches out"
                )
            name = differing(like, ours, tolerance)
            if name is not None:
                raise ValueError(
                    f"{RULE}, but the gradient of {name!r} for {size} examples is "
                    "another in one pass: take such a mean, or leave micro_batches out"
                )
        except Exception:
            step.axes.clear()
            raise
