"""Learner: meta-parameters θ, and the training run that a task is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from numbers import Integral

from torch import nn

from raymeta.data.episodes import Episode
from raymeta.errors import require_types, said
from raymeta.hypergrad import Estimator
from raymeta.modules.micro_batches import require_one_pass
from raymeta.optim import first_order as without_second_derivatives
from raymeta.problem import BilevelProblem, Descent
from raymeta.types import State, Tensors


@dataclass(frozen=True, kw_only=True)
class Learner:
    r"""A meta-learning algorithm: a bilevel problem for each task, with λ = θ.

    $$ \min_\theta \frac1N \sum_{i=1}^N E_i(s_T(\theta), \theta),\qquad
       s_{t+1} = \Phi_i(s_t, \theta) $$

    Attributes:
        meta: the initial meta-parameters θ, by name.
        problem: a task -> its bilevel problem, whose hyperparameters are θ; a pure
            function of tensors, for it runs under `torch.func.vmap`.
        steps: T, the inner steps; 0 where all that a task is learnt by is its start.
        estimator: how the meta-gradient is computed, task by task; None
            back-propagates through the inner steps of all tasks at once.
        transform: what becomes of one task's meta-gradient before the mean over tasks;
            None leaves it as it is.
        adapted: (s_T of one task, θ) -> the module that `MetaModule.adapt` gives for
            its examples; None where no module is adapted.

    Source: Franceschi et al. 2018, section 3: meta-learning as bilevel programming.
    """

    meta: Tensors
    problem: Callable[[Episode], BilevelProblem]
    steps: int
    estimator: Estimator | None = None
    transform: Callable[[Tensors], Tensors] | None = None
    adapted: Callable[[State, Tensors], nn.Module] | None = None

    def __post_init__(self) -> None:
        """Check the types of all, and the number of steps."""
        require_types(self)
        require_steps(self.steps, least=0)


def require_steps(steps: int, least: int = 1) -> None:
    """Raise ValueError for fewer inner steps than a learner can have."""
    whole = isinstance(steps, Integral) and not isinstance(steps, bool)
    if not whole or steps < least:
        raise ValueError(
            f"a learner needs steps >= {least}, but got steps={said(steps)}: give a "
            "whole number"
        )


def require_learner(learner: object) -> None:
    """Raise ValueError unless this is a `Learner`."""
    if isinstance(learner, Learner):
        return
    raise ValueError(
        f"what is meta-learnt must be a Learner, but got {said(learner)}: give what an "
        "algorithm of raymeta.meta makes of it, for example maml(module, loss=loss)"
    )


def task_axes(learner: Learner, theta: Tensors) -> dict[str, int | None]:
    """Along which axis tasks have meta-parameters of their own; None: they share."""
    meta = learner.meta
    return {k: 0 if x.ndim > meta[k].ndim else None for k, x in theta.items()}


def first_order(learner: Learner) -> Learner:
    """The same algorithm without second derivatives; see `raymeta.optim.first_order`.

    Raises:
        ValueError: no learner; from the first forward, an inner loop that is no
            `Descent`.
    """
    require_learner(learner)

    def problem(task: Episode) -> BilevelProblem:
        exact = learner.problem(task)
        require_one_pass(exact, "first_order")
        step = exact.step
        if not isinstance(step, Descent):
            raise ValueError(
                "first_order needs a learner whose problems' step is a `Descent`, as "
                f"of descent(), but got {step}: cut its gradient from the graph there"
            )
        cut = Descent(
            step.inner_loss,
            lambda theta: without_second_derivatives(step.optimizer(theta)),
        )
        return replace(exact, step=cut)

    return replace(learner, problem=problem)
