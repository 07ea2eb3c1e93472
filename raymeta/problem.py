"""Bilevel problem: the one type that every estimator consumes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from raymeta._tree import detach, in_transform, register_dict, tree_leaves
from raymeta.autograd.accumulation import accumulated
from raymeta.autograd.stop_gradient import inner_gradient
from raymeta.autograd.through_stops import ThroughStops
from raymeta.errors import said, unknown_name
from raymeta.optim import Optimizer
from raymeta.optim.resolve import made, require_maker
from raymeta.types import Batch, Hparams, State, Tensors


def no_data(t: int) -> Batch:
    """The batch of a problem without data: only the step."""
    return Batch(torch.tensor(t), ())


class Known(dict[str, Any]):
    """λ by name; one that it does not have is told with those that it has."""

    def __missing__(self, name: object) -> Any:
        if not isinstance(name, str):  # λ took the place of something else
            raise TypeError(f"hyperparameters have names, but got {said(name)}")
        raise unknown_name("hyperparameter", name, self)


register_dict(Known)


def known(hparams: Hparams) -> Hparams:
    """λ as a user's own functions get it: see `Known`."""
    return hparams if isinstance(hparams, Known) else Known(hparams)


def require_scalar(name: str, value: Any) -> None:
    """Raise ValueError unless a loss is one real number, a tensor of shape ().

    Args:
        name: whose value it is, for example "outer_loss".
        value: what that returned.
    """
    if isinstance(value, Tensor) and value.shape == () and value.is_floating_point():
        return
    hint = "return torch's result itself, without float() or .item()"
    if isinstance(value, Tensor):
        seen = f"shape {tuple(value.shape)} of {value.dtype}"
        hint = "take its .mean() or .sum()"
        if value.is_complex():
            hint = "take its .abs() or .real"
        elif not value.is_floating_point():
            hint = "a loss of integers has no derivative"
    elif isinstance(value, tuple | list | dict):
        seen = f"a {type(value).__name__} of {len(value)}"
        hint = "return the loss alone (logs go into metrics=)"
    else:
        seen = f"a {type(value).__name__}"
    raise ValueError(
        f"{name} must return a floating-point tensor of shape (), but returned {seen}: "
        f"{hint}"
    )


@dataclass(frozen=True, kw_only=True)
class ValidationLoss:
    r"""The outer loss as a mean over validation examples: over all, or over a batch.

    $$ E(s, \lambda) = \frac1N \sum_{i=1}^N \ell_i(s, \lambda),\qquad
       E_B(s, \lambda) = \frac1{|B|} \sum_{i \in B} \ell_i(s, \lambda) $$

    B is drawn without replacement, so that E_B and its gradient are E and its gradient
    in expectation. With a `batch_size` m, E and its derivatives are accumulated over
    mini-batches,

    $$ E = \sum_k \frac{|B_k|}{N} E_{B_k},\qquad |B_k| \le m $$

    with the graph of one of them at a time (`accumulated`): the same numbers.

    Attributes:
        mean: (s, λ, B) -> tensor of shape (); B are indices, int64, shape (m,), or None
            for all examples.
        batch: (m, t) -> B, the t-th batch of m examples; deterministic in t.
        size: N.
        batch_size: m; None for all examples in one pass.
        sample: how many examples an estimate of the hypergradient looks at, others each
            time; None for all. What is reported of a run is E over all.
    """

    mean: Callable[[State, Hparams, Tensor | None], Tensor]
    batch: Callable[[int, int], Tensor]
    size: int
    batch_size: int | None = None
    sample: int | None = None

    def __call__(self, state: State, hparams: Hparams) -> Tensor:
        """E over all examples."""
        return self.over(state, hparams)

    def over(
        self, state: State, hparams: Hparams, index: Tensor | None = None
    ) -> Tensor:
        """E_B, in passes of at most `batch_size` examples.

        Args:
            state: s.
            hparams: λ.
            index: B; None for all examples.
        """
        count = self.size if index is None else len(index)
        if self.batch_size is None or count <= self.batch_size:
            return self.mean(state, hparams, index)
        rows = torch.arange(count) if index is None else index
        terms = [partial(self._share, part, count) for part in self.parts(rows)]
        return accumulated(terms, state, hparams)

    def parts(self, index: Tensor) -> tuple[Tensor, ...]:
        """Mini-batches of these examples, the last maybe a smaller one."""
        return index.split(self.batch_size or len(index))

    def _share(
        self, part: Tensor, count: int, state: State, hparams: Hparams
    ) -> Tensor:
        return self.mean(state, hparams, part) * (len(part) / count)


@dataclass(frozen=True, kw_only=True)
class BilevelProblem:
    r"""Training as a dynamical system, with an outer loss at its end.

    $$ s_0 = \Phi_0(\lambda),\quad s_{t+1} = \Phi(s_t, \lambda, b_t),\quad
       E(s_T, \lambda) $$

    (Franceschi et al. 2017, eq. 1-3.)

    Attributes:
        init: Φ_0: λ -> s_0.
        step: Φ: (s, λ, b) -> s; a pure function of tensors, for gradient-based
            training a `Descent`.
        outer_loss: E: (s, λ) -> tensor of shape (); a `ValidationLoss` where it can be
            taken over some of the validation examples, too.
        batch: t -> b_t; deterministic in t. Only the step by default.
        inner_loss: (s, λ, b) -> shape (): what a step descends, where there is one.
            It tells how much of a step depends on λ (see `ShortTerm`).
        outer_cost: cost of one forward and backward pass of E in gradient evaluations,
            that is in units of one such pass of the inner loss.
        metrics: (s, λ) -> held-out metrics by name, for the one final look.
        module: (s, λ) -> the trained module in evaluation mode, where there is one.
        validation_size: examples in E; None where it is not a mean over examples.
        fold_losses: (s, λ) -> E of each of k parts of the validation data, shape (k,);
            None where there are too few examples to tell E's standard error by them.
        holdout_loss: (s, λ) -> E on validation data held back, shape (); no choice is
            made by it.
        autocast: the dtype of a module's matrix products and convolutions, where that
            is not the weights'.
        traced: what estimators traced or compiled of it, a cache.
    """

    init: Callable[[Hparams], State]
    step: Callable[[State, Hparams, Batch], State]
    outer_loss: Callable[[State, Hparams], Tensor]
    batch: Callable[[int], Batch] = no_data
    inner_loss: Callable[[State, Hparams, Batch], Tensor] | None = None
    outer_cost: float = 1.0
    metrics: Callable[[State, Hparams], Tensors] | None = None
    module: Callable[[State, Hparams], nn.Module] | None = None
    validation_size: int | None = None
    fold_losses: Callable[[State, Hparams], Tensor] | None = None
    holdout_loss: Callable[[State, Hparams], Tensor] | None = None
    autocast: torch.dtype | None = None
    traced: dict[Any, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def device(self) -> torch.device:
        """Where λ must be: where batches say which step it is."""
        return self.batch(0).index.device


class TrainState(NamedTuple):
    """The state s of gradient-based training.

    Attributes:
        params: the trained weights, by name.
        memory: the optimizer's memory.
        buffers: the module's buffers, by name; empty without a module.
    """

    params: Tensors
    memory: State
    buffers: Tensors


@dataclass(frozen=True)
class Descent:
    """Φ for gradient-based training: the gradient of a loss, then an update by it.

    An estimator that needs the two apart (`Reversible`) takes them from here.

    Attributes:
        inner_loss: (params, buffers, λ, batch) -> (loss of shape (), new buffers).
        optimizer: λ -> the update rule.

    Raises:
        ValueError: the optimizer is none of λ.
    """

    inner_loss: Callable[[Tensors, Tensors, Hparams, Batch], tuple[Tensor, Tensors]]
    optimizer: Callable[[Hparams], Optimizer]

    def __post_init__(self) -> None:
        require_maker(self.optimizer)

    def rule(self, hparams: Hparams) -> Optimizer:
        """The update rule at λ."""
        return made(self.optimizer, known(hparams))

    def gradient(
        self, params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensors, Tensors]:
        """The gradient in the parameters, and the new buffers."""
        _, grads, buffers = self.value_and_gradient(params, buffers, hparams, batch)
        return grads, buffers

    def value_and_gradient(
        self, params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensor, Tensors, Tensors]:
        """The loss, its gradient in the parameters, and the new buffers."""
        # Only torch.func.grad composes with jvp and vmap, and only it can be compiled;
        # elsewhere torch.autograd.grad gives the same in half the time.
        if in_transform() or torch.compiler.is_compiling():
            slope = grad_and_value(self.inner_loss, has_aux=True)
            with inner_gradient() as inner, inner.being_taken():
                grads, (loss, buffers) = slope(params, buffers, hparams, batch)
            return loss, grads, buffers
        differentiated = torch.is_grad_enabled() and any(
            isinstance(leaf, Tensor) and leaf.requires_grad
            for leaf in tree_leaves((params, buffers, hparams))
        )
        with torch.enable_grad(), inner_gradient() as inner:
            # Views: the derivative in each parameter must not include the way that
            # leads through others, where they were computed from one another.
            at = {
                name: p.view_as(p) if p.requires_grad else p.detach().requires_grad_()
                for name, p in params.items()
            }
            loss, buffers = self.inner_loss(at, buffers, hparams, batch)
            require_scalar("inner_loss", loss)
            if not loss.requires_grad:  # a loss that no parameter enters
                loss = loss + 0.0 * next(iter(at.values())).sum()
            with inner.being_taken():
                grads = torch.autograd.grad(
                    loss,
                    list(at.values()),
                    create_graph=differentiated,
                    materialize_grads=True,
                )
        if not differentiated:
            loss, buffers = loss.detach(), detach(buffers)
        return loss, dict(zip(at, grads, strict=True)), buffers

    def __call__(self, state: TrainState, hparams: Hparams, batch: Batch) -> TrainState:
        """s_{t+1} from s_t."""
        grads, buffers = self.gradient(state.params, state.buffers, hparams, batch)
        params, memory = self.rule(hparams).update(
            grads, state.memory, state.params, batch.index
        )
        return TrainState(params, memory, buffers)


def descent(
    *,
    init_params: Callable[[Hparams], Tensors],
    inner_loss: Callable[[Tensors, Hparams, Batch], Tensor],
    outer_loss: Callable[[Tensors, Hparams], Tensor],
    optimizer: Callable[[Hparams], Optimizer],
    batch: Callable[[int], Batch] = no_data,
    outer_cost: float = 1.0,
    metrics: Callable[[Tensors, Hparams], Tensors] | None = None,
) -> BilevelProblem:
    """Gradient descent on an inner loss, from functions of plain tensors.

    Args:
        init_params: λ -> initial weights by name.
        inner_loss: (params, λ, batch) -> shape ().
        outer_loss: (params, λ) -> shape ().
        optimizer: λ -> the update rule, for example
            `lambda hparams: raymeta.optim.sgd(lr=hparams["lr"])`.
        batch: t -> b_t; only the step by default.
        outer_cost: cost of a pass of `outer_loss` in passes of `inner_loss`.
        metrics: (params, λ) -> held-out metrics by name.

    Raises:
        ValueError: `optimizer` is no function from λ to a rule of `raymeta.optim`.
    """
    inner, outer = ThroughStops("inner_loss"), ThroughStops("outer_loss")

    def with_buffers(
        params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        return inner(inner_loss, params, known(hparams), batch), buffers

    def measured(state: TrainState, hparams: Hparams) -> Tensors:
        assert metrics is not None
        return metrics(state.params, known(hparams))

    step = Descent(with_buffers, optimizer)

    def init(hparams: Hparams) -> TrainState:
        params = init_params(known(hparams))
        return TrainState(params, step.rule(hparams).init(params), {})

    return BilevelProblem(
        init=init,
        batch=batch,
        step=step,
        outer_loss=lambda s, hparams: outer(outer_loss, s.params, known(hparams)),
        inner_loss=lambda s, hparams, b: inner(inner_loss, s.params, known(hparams), b),
        outer_cost=outer_cost,
        metrics=None if metrics is None else measured,
    )
