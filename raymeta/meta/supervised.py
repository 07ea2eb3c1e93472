"""Inner loop of supervised tasks: what most algorithms share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any, TypedDict, get_type_hints

import torch
from torch import Tensor, nn

from raymeta._tree import in_transform
from raymeta.autograd.through_stops import ThroughStops
from raymeta.data.episodes import Episode, Examples
from raymeta.errors import said, unknown_name
from raymeta.hypergrad import Estimator
from raymeta.meta.accuracy import accuracy, right_of
from raymeta.meta.functional_network import MetaNetwork
from raymeta.meta.learner import Learner, require_steps
from raymeta.meta.task_rng import TaskNoise
from raymeta.meta.weighted import (
    Loss,
    batch_loss,
    is_weighted,
    require_examples_apart,
    without_padding,
)
from raymeta.modules.overrides.batch_norm import Policy
from raymeta.modules.user_functions import require_function
from raymeta.optim import Optimizer, from_torch, sgd
from raymeta.problem import BilevelProblem, Descent, TrainState
from raymeta.types import Batch, Tensors

#: A rule; θ -> a rule; or an optimizer of `torch.optim`, or what makes one from
#: parameters: its class, or a `partial` of that.
Inner = (
    Optimizer
    | Callable[[Tensors], Optimizer]
    | torch.optim.Optimizer
    | type[torch.optim.Optimizer]
    | partial[torch.optim.Optimizer]
)


class Options(TypedDict, total=False):
    """What every algorithm on a module takes.

    Attributes:
        metrics: name -> (outputs, targets) -> the mean over examples, shape ();
            computed on the query beside its loss. "accuracy" is there by itself where
            the loss is one of torch's for classifiers (cross-entropy, …).
        batch_norm: what batch norms normalize with, "batch" by default: the examples
            that are evaluated together (Finn et al. 2017). Others: see
            `raymeta.module_problem`.
        seed: seeds randomness inside the module (dropout): with it, a task's data and
            the inner step decide.
    """

    metrics: Mapping[str, Loss]
    batch_norm: Policy
    seed: int


OPTIONS = get_type_hints(Options)


def require_known(algorithm: Callable[..., Learner], options: Options) -> None:
    """Refuse options that an algorithm does not have, and values that none can have.

    Python checks a `TypedDict` at no time.

    Raises:
        ValueError: an unknown name, and which one may be meant; metrics that are no
            functions by name; a seed that is no integer.
    """
    own = signature(algorithm).parameters.values()
    known = {p.name for p in own if p.kind is p.KEYWORD_ONLY} | set(OPTIONS)
    for name in options:
        if name not in known:
            raise unknown_name(f"argument of {algorithm.__name__}", name, known)
    metrics, seed = options.get("metrics", {}), options.get("seed", 0)
    if not isinstance(metrics, Mapping) or not all(map(callable, metrics.values())):
        raise ValueError(
            "metrics must be functions (outputs, targets) -> shape () by name, but got "
            f"{metrics!r}: give, for example, metrics={{'error': error}}"
        )
    if not isinstance(seed, int):
        raise ValueError(f"a seed must be an integer, but got seed={seed!r}")


def network_of(module: nn.Module, options: Options) -> MetaNetwork:
    """The module under the policies that the options choose."""
    return MetaNetwork(module, options.get("batch_norm", "batch"))


def rule_of(
    inner: Inner, module: nn.Module | None = None, adapted: Iterable[str] = ()
) -> Callable[[Tensors], Optimizer]:
    """θ -> the inner update rule, however it is given.

    Args:
        inner: see `Inner`.
        module: whose parameters an optimizer of `torch.optim` that is given has.
        adapted: the parameters that it must have, by name.

    Raises:
        ValueError: `raymeta.optim` has no such rule.
    """
    if isinstance(inner, Optimizer):
        return lambda theta: inner
    if isinstance(inner, torch.optim.Optimizer):
        own = {} if module is None else dict(module.named_parameters())
        rule = from_torch(inner, {name: own[name] for name in adapted} or None)
        return lambda theta: rule
    made = inner.func if isinstance(inner, partial) else inner
    if isinstance(made, type) and issubclass(made, torch.optim.Optimizer):
        rule = from_torch(inner)  # type: ignore[arg-type]  # of one parameter
        return lambda theta: rule
    return inner  # type: ignore[return-value]  # what is left of `Inner`


def with_hyperparameters(
    weights: Tensors, hyperparameters: Mapping[str, Tensor] | None
) -> Tensors:
    """θ: a module's weights and what else is meta-learnt.

    Raises:
        ValueError: a name that a weight has already; a value that is no tensor of
            floats.
    """
    hyperparameters = {} if hyperparameters is None else hyperparameters
    if not isinstance(hyperparameters, Mapping):
        raise ValueError(
            "what is meta-learnt besides the weights must be a mapping from names to "
            f"tensors, but got hyperparameters={said(hyperparameters)}"
        )
    for name, value in hyperparameters.items():
        if name in weights:
            raise ValueError(
                f"a meta-learnt hyperparameter needs a name of its own, but {name!r} "
                "is a weight of the module: rename it"
            )
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            raise ValueError(
                f"a meta-learnt hyperparameter must be a tensor of floats, but {name!r}"
                f" is {said(value)}: pass torch.tensor({said(value)})"
            )
    return {**weights, **hyperparameters}


def _support(task: Episode, theta: Tensors, t: Tensor) -> Examples:
    return task.support


def labelled(name: str, part: Any) -> Examples:
    """A part of a task as it is.

    Raises:
        ValueError: it is no `Examples`.
    """
    if isinstance(part, Examples):
        return part
    raise ValueError(
        "meta-learning on a module needs tasks of labelled examples, but their "
        f"{name} is a {type(part).__name__}: give raymeta.data.Examples(inputs, "
        "targets, weight)"
    )


def _floating(metric: Loss) -> Loss:
    """The same metric, where it counts as well."""

    def measure(outputs: Any, targets: Any) -> Tensor:
        value = metric(outputs, targets)
        whole = isinstance(value, Tensor) and not value.is_floating_point()
        return value.to(torch.get_default_dtype()) if whole else value

    return measure


def _is_first(index: Tensor) -> bool:
    """Whether this is step 0, seen as such."""
    return not in_transform() and int(index) == 0


def _as_given(params: Tensors, values: Any) -> Any:
    return values


def supervised(
    network: MetaNetwork,
    *,
    meta: Tensors,
    loss: Loss,
    optimizer: Callable[[Tensors], Optimizer],
    steps: int,
    options: Options,
    start: Callable[[Tensors, Episode], Tensors],
    arguments: Callable[[Tensors, tuple], tuple] = _as_given,
    outputs_of: Callable[[Tensors, Any], Any] = _as_given,
    penalty: Callable[[Tensors, Tensors], Tensor] | None = None,
    seen: Callable[[Episode, Tensors, Tensor], Examples] = _support,
    judge: Callable[[Tensor, TrainState, Tensors], Tensor] | None = None,
    estimator: Estimator | None = None,
    transform: Callable[[Tensors], Tensors] | None = None,
    alone: Callable[[nn.Module, Tensors], nn.Module] | None = None,
) -> Learner:
    r"""Adapt some tensors φ to labelled examples, with the network at θ and φ.

    $$ \phi_0 = \mathrm{start}(\theta),\quad f_i(\phi, \theta) =
       L(\mathrm{net}_{\theta, \phi}, \mathrm{support}_i) + P(\phi, \theta),\quad
       E_i(\phi, \theta) = L(\mathrm{net}_{\theta, \phi}, \mathrm{query}_i) $$

    Args:
        network: its weights are those of φ, and of θ where φ has none of that name.
        meta: θ to start from.
        loss: L; see `batch_loss`.
        optimizer: θ -> the inner update rule.
        steps: T.
        options: what is left of the algorithm's arguments.
        start: (θ, task) -> φ_0.
        arguments: (φ, inputs) -> what the network is called with; the inputs unless
            given.
        outputs_of: (φ, what the network returns) -> outputs that the loss is given; the
            same unless given.
        penalty: P: (φ, θ) -> shape (); none unless given.
        seen: (task, θ, t) -> the examples that step t sees; the support unless given.
        judge: (query loss, s_T, θ) -> the outer loss; the query loss unless given.
        estimator: see `Learner`.
        transform: see `Learner`.
        alone: (the module with its weights, φ_T) -> what is called with the inputs;
            that module unless given.

    Raises:
        ValueError: the loss is no function; from the first forward, a task whose
            support or query is no `Examples`.
    """
    require_function("loss", loss, ("outputs", "targets"))
    require_steps(steps)
    metrics, seed = options.get("metrics", {}), options.get("seed", 0)
    right = None if "accuracy" in metrics else right_of(loss)
    inner, outer = ThroughStops("the inner loss"), ThroughStops("the outer loss")

    def called_with(params: Tensors, examples: Examples) -> tuple:
        given: Any = examples.inputs
        return arguments(params, given if isinstance(given, tuple) else (given,))

    def problem(task: Episode) -> BilevelProblem:
        query = without_padding(labelled("query", task.query))

        def init(theta: Tensors) -> TrainState:
            params = start(theta, task)
            memory = optimizer(theta).init(params)
            return TrainState(params, memory, network.buffers(theta))

        def batch(t: int) -> Batch:
            return Batch(torch.tensor(t, device=task.query.weight.device), ())

        def pass_of(
            params: Tensors, buffers: Tensors, theta: Tensors, batch: Batch
        ) -> tuple[Tensor, Tensors]:
            params = network.hooked(params)
            given = labelled("support", seen(task, theta, batch.index))
            examples = without_padding(given)
            weights, before = {**theta, **params}, buffers

            def trained(inputs: tuple) -> tuple[Any, Tensors]:
                noise = TaskNoise(seed, task, batch.index)
                return network.train(weights, before, inputs, noise)

            inputs = called_with(params, examples)
            outputs, buffers = trained(inputs)
            if is_weighted(examples) and _is_first(batch.index):
                require_examples_apart(trained, inputs, examples.weight)
            value = batch_loss(loss, outputs_of(params, outputs), examples, "loss")
            if penalty is not None:
                value = value + penalty(params, theta)
            return value, buffers

        def inner_loss(
            params: Tensors, buffers: Tensors, theta: Tensors, batch: Batch
        ) -> tuple[Tensor, Tensors]:
            return inner(pass_of, params, buffers, theta, batch)

        def answer(state: TrainState, theta: Tensors) -> Any:
            def judged(inputs: tuple) -> Any:
                weights, noise = {**theta, **state.params}, TaskNoise(seed, task, steps)
                return network.judge(weights, state.buffers, inputs, noise)

            inputs = called_with(state.params, query)
            outputs = judged(inputs)
            if is_weighted(query) and not in_transform():
                require_examples_apart(judged, inputs, query.weight)
            return outputs_of(state.params, outputs)

        def query_loss(state: TrainState, theta: Tensors) -> Tensor:
            return batch_loss(loss, answer(state, theta), query, "loss")

        def outer_loss(state: TrainState, theta: Tensors) -> Tensor:
            value = outer(query_loss, state, theta)
            return value if judge is None else judge(value, state, theta)

        def measured(state: TrainState, theta: Tensors) -> Tensors:
            with torch.no_grad():
                outputs = answer(state, theta)
                values = {
                    key: batch_loss(
                        _floating(metric), outputs, query, f"metric {key!r}"
                    )
                    for key, metric in metrics.items()
                }
                if right is not None:
                    values["accuracy"] = accuracy(right, outputs, query)
                return values

        return BilevelProblem(
            init=init,
            batch=batch,
            step=Descent(inner_loss, optimizer),
            outer_loss=outer_loss,
            inner_loss=lambda s, h, b: inner_loss(s.params, s.buffers, h, b)[0],
            metrics=measured if metrics or right is not None else None,
        )

    def adapted(state: TrainState, theta: Tensors) -> nn.Module:
        module = network.module({**theta, **state.params}, state.buffers)
        return module if alone is None else alone(module, state.params)

    return Learner(
        meta=meta,
        problem=problem,
        steps=steps,
        estimator=estimator,
        transform=transform,
        adapted=adapted,
    )


def adapting(
    module: nn.Module,
    network: MetaNetwork,
    adapted: Sequence[str],
    *,
    optimizer: Inner | None,
    hyperparameters: Mapping[str, Tensor] | None = None,
    **rest: Any,
) -> Learner:
    """`supervised`, where what is adapted are weights of the module, from θ on.

    Args:
        module: whose parameters an optimizer of `torch.optim` has.
        network: its network.
        adapted: which weights, by name.
        optimizer: see `Inner`; SGD with a learning rate of 0.01 by default.
        hyperparameters: what else is meta-learnt, by name.
        **rest: see `supervised`.
    """
    inner = sgd(0.01) if optimizer is None else optimizer
    return supervised(
        network,
        meta=with_hyperparameters(network.weights, hyperparameters),
        optimizer=rule_of(inner, module, adapted),
        start=lambda theta, task: {name: theta[name] for name in adapted},
        **rest,
    )
