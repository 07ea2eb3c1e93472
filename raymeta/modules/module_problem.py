"""Bilevel problem of training a module."""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from raymeta.autograd.stop_gradient import hooked
from raymeta.autograd.through_stops import ThroughStops
from raymeta.errors import require_arguments
from raymeta.modules.batches import Examples, Source
from raymeta.modules.copies import copied, require_module, with_tensors
from raymeta.modules.counter_rng import Noise, mix
from raymeta.modules.evaluation import FOLDS, Evaluation, fold_losses
from raymeta.modules.functional import Network
from raymeta.modules.given_data import given_data
from raymeta.modules.micro_batches import micro_batched
from raymeta.modules.overrides.batch_norm import Policy, apply_policy, tuned_norms
from raymeta.modules.overrides.gradient_hooks import gradient_hooks
from raymeta.modules.preflight import Look, functions, no_mean
from raymeta.modules.purity import find_needs
from raymeta.modules.rng_state import restored, seed_all
from raymeta.modules.user_functions import require_function
from raymeta.optim import Optimizer
from raymeta.problem import BilevelProblem, Descent, TrainState, known
from raymeta.types import Batch, Hparams, Tensors

Loss = Callable[[Any, Tensor], Tensor]


def module_problem(
    module: nn.Module,
    *,
    loss: Loss,
    train: Dataset | DataLoader,
    val: Dataset | DataLoader,
    optimizer: Callable[[Hparams], Optimizer],
    batch_size: int | None = None,
    val_batch_size: int | None = None,
    val_batches: int | None = None,
    micro_batches: int = 1,
    collate: Callable[[list], Any] | None = None,
    seed: int = 0,
    test: Dataset | DataLoader | None = None,
    holdout: Dataset | DataLoader | float | None = None,
    metrics: Mapping[str, Loss] | None = None,
    init_params: Callable[[Tensors, Hparams], Tensors] | None = None,
    frozen: Callable[[Hparams], Tensors] | None = None,
    augment: Callable[[tuple, Any, Hparams, Noise], tuple[tuple, Any]] | None = None,
    train_loss: Callable[[Any, Any, Hparams, Tensor], Tensor] | None = None,
    regularizer: Callable[[Tensors, Hparams], Tensor] | None = None,
    batch_norm: Policy = "running",
    autocast: torch.dtype | None = None,
) -> BilevelProblem:
    """Training of any module, with the validation loss as outer loss.

    The module itself is never changed: weights and buffers live in the state. Its
    present weights are the initial ones, whatever happens to it later; frozen
    parameters stay as they are. Training steps run it in training mode, everything
    else in evaluation mode. Derivatives reach the outer loss through the running
    statistics of batch norms too.

    Randomness inside it (dropout) is a function of (seed, t), and of the seed alone in
    evaluation, by whichever global generator: torch's, Python's, numpy's. Functions
    that lack a second or a forward derivative (fused attention, bags of embeddings,
    oneDNN's LSTM, weight norm) are replaced by equal ones; what is needed is found out
    here, by calls of copies with the first batch. They also show whether the module is
    a pure function of its tensors: what it keeps of its last call (an attention map, a
    table) is dropped after each, what moves from call to call must be a buffer.

    What stops a gradient (`detach`, `no_grad`) and hooks of `Tensor.register_hook`, of
    parameters too, act on training gradients as in `torch.optim`. Hypergradients are
    derivatives of what is computed: they pass through what was stopped.

    λ reaches training by `optimizer` and, wherever else it is needed, by a hook:

    - initial weights, or their scale:
      `init_params=lambda params, h: {k: h["scale"] * p for k, p in params.items()}`
    - what is inside the module but not trained (features, a `ConcreteDropout`'s rate):
      `frozen=lambda h: {"1.rate": h["dropout"]}`
    - strength of augmentation: `augment=lambda inputs, targets, h, noise:
      ((random_affine(*inputs, noise, rotation=h["rotation"]),), targets)`
    - a weight per training example: `train_loss=lambda outputs, targets, h, index:
      smoothed_cross_entropy(outputs, targets, weights=h["weights"][index])`
    - label smoothing: `train_loss=lambda outputs, targets, h, index:
      smoothed_cross_entropy(outputs, targets, h["smoothing"])`
    - a learned loss: `train_loss=lambda outputs, targets, h, index:
      functional_call(loss_net, {k: h[k] for k in names}, (outputs, targets))`

    Args:
        module: called with the inputs of a batch.
        loss: (outputs, targets) -> mean loss, shape (). The outer loss, and the
            training loss unless `train_loss` is given. Targets of a batch that is a
            dictionary are this dictionary.
        train: any map-style data set of (inputs…, target) or of dictionaries, which
            go into the module by name; a tuple of tensors or arrays with examples in
            their rows; an `IterableDataset`, which is read once; or a `DataLoader`,
            whose batches, sampler, collation and workers are kept, its order a function
            of (seed, epoch). What is drawn from the global generators where an example
            is read is a function of (seed, epoch, example), for `val` and `test` of
            (seed, example).
        val: data as for `train`; the outer loss is the mean loss over all of it.
        optimizer: λ -> the inner update rule.
        batch_size: examples per step, drawn without replacement from a new
            permutation each epoch; all of them by default, as they stand.
        val_batch_size: examples in a pass of the outer loss, which is accumulated with
            its derivatives: the same numbers, in the memory of one pass. Data that are
            not in memory are read again each time. All of them in one pass by default,
            or as many as a `DataLoader` says.
        val_batches: how many such passes an estimate of the hypergradient looks at, of
            other examples each time; all by default. What a run is reported to have
            reached is the outer loss over all.
        micro_batches: in how many parts a training batch is passed through, with the
            graph of one of them at a time: the same numbers; see `micro_batched`.
        collate: a list of examples -> a batch, for data sets; torch's own by default.
        seed: seeds the batch order, augmentation and randomness inside the module.
        test: held-out data for `BilevelProblem.metrics`.
        holdout: validation data held back, a data set or a share of `val` such as 0.3,
            which then is no part of the outer loss. It is looked at for the start and
            the result alone, and tells whether the rest was overfitted.
        metrics: name -> (outputs, targets) -> shape (), computed on `test` beside
            `test_loss` and named `test_<name>`.
        init_params: (the module's trained weights, λ) -> the initial ones, by the same
            names.
        frozen: λ -> values of frozen parameters and of buffers by name, in training
            and evaluation; no part of the state.
        augment: (inputs, targets, λ, noise) -> (inputs, targets) of a training batch;
            inputs are a tuple.
        train_loss: (outputs, targets, λ, index) -> shape (); the index tells which
            training examples these are, int64, shape (batch,).
        regularizer: (trained weights, λ) -> shape (), added to the training loss.
        batch_norm: what batch norms normalize with. "running": in training the batch's
            statistics, which move the running ones, in evaluation these (Ioffe &
            Szegedy 2015). "batch": the batch's in both, so that examples that are
            evaluated together depend on one another, and none are kept (as MAML's,
            Finn et al. 2017). "frozen": the module's own in both. `PerStep(T)`: as
            "running", with rows for every step.
        autocast: a dtype such as torch.bfloat16 for the module's matrix products and
            convolutions (`torch.autocast`); weights, outputs, losses and tangents stay
            float32.

    Raises:
        ValueError: a data set is empty, smaller than a batch, without targets, or not
            the same when read again, nor the order of a loader; `val_batch_size` with a
            loss that is no mean over examples; data or the first loss are not finite; a
            function has other arguments, returns something else than it must, or reads
            weights that nothing trains; metrics without test data; the module has
            nothing to train, running statistics that have no derivative, embeddings
            whose gradients are none, activation checkpointing, hooks of layers, state
            outside its buffers, a generator of its own, or weights that cannot come
            from outside. From `init`: `frozen` or `init_params` give other names.
    """
    require_module(module, "module_problem")
    require_arguments(module_problem, seed=seed, metrics=metrics)
    # Copies: training the module itself, later, must not move the start of this one.
    trained = {
        name: p.detach().clone()
        for name, p in module.named_parameters()
        if p.requires_grad
    }
    if not trained:
        raise ValueError(
            f"module_problem needs a module with parameters that require grad, but got "
            f"{type(module).__name__}: unfreeze some"
        )
    device = next(iter(trained.values())).device
    hooks = gradient_hooks(module)
    seen, judged, written = mode_copies(module, batch_norm)
    own = copied(module, zip(module.parameters(), seen.parameters(), strict=True))
    buffers = {name: b.detach() for name, b in seen.named_buffers()}
    constant = {name for name, p in seen.named_parameters() if not p.requires_grad}
    training = Network(seen, written, device, autocast)
    evaluation = Network(judged, written, device, autocast)

    if metrics and test is None:
        raise ValueError(
            f"module_problem needs test data for metrics {sorted(metrics)}: give test="
        )
    real = next(iter(trained.values())).dtype.to_real()
    data = given_data(
        train=train,
        val=val,
        test=test,
        holdout=holdout,
        batch_size=batch_size,
        val_batch_size=val_batch_size,
        val_batches=val_batches,
        collate=collate,
        seed=seed,
    )
    source, judging = (
        Source(name, part, device, real, seed)
        for name, part in (("train", data.train), ("val", data.val))
    )
    for part in (source, judging):
        part.require_repeatable()
    source.follow(data.order)
    passes = data.val_batch_size
    judging.pass_by(passes or judging.size)
    whole = source.all() if data.full_batch else None

    # Read only when the final look is due: the search must not even touch them.
    @lru_cache
    def held(name: str) -> Source:
        given = data.test if name == "test" else data.holdout
        assert given is not None
        return Source(name, given, device, real, seed)

    # Before the first step: evaluation has random numbers of its own.
    no_step = torch.tensor(-1, device=device)
    for name, function, takes in (
        ("init_params", init_params, ("params", "hparams")),
        ("frozen", frozen, ("hparams",)),
    ):
        if function is not None:
            require_function(name, function, takes)
    given = functions(
        module,
        autocast is not None,
        loss=loss,
        train_loss=train_loss,
        regularizer=regularizer,
        augment=augment,
        metrics=metrics,
    )

    def init(hparams: Hparams) -> TrainState:
        hparams = known(hparams)
        params = {name: p.clone() for name, p in trained.items()}
        if init_params is not None:
            with restored(device):
                seed_all(mix(seed, 0), device)
                params = init_params(params, hparams)
            _require_names("init_params", params, of=set(trained), all_of_them=True)
        fixed = {} if frozen is None else frozen(hparams)
        _require_names("frozen", fixed, of=constant | set(buffers))
        moving = {name: b for name, b in buffers.items() if name not in fixed}
        return TrainState(params, step.rule(hparams).init(params), moving)

    def batch(t: int) -> Batch:
        index = torch.tensor(t, device=device)
        if whole is not None:
            return Batch(index, source.all(epoch=t) if source.draws else whole)
        return Batch(index, source.at(*data.order.at(t), place=t))

    def values(params: Tensors, hparams: Hparams) -> Tensors:
        return params if frozen is None else params | frozen(known(hparams))

    def pass_of(
        params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        hparams = known(hparams)
        params = params | {name: hooked(params[name], hooks[name]) for name in hooks}
        inputs, targets, index = batch.data
        noise = Noise(seed, batch.index)
        if given.augment is not None:
            inputs, targets = given.augment(noise, inputs, targets, hparams, noise)
        at = values(params, hparams)
        outputs, buffers = training(at, buffers, inputs, noise)
        if given.train_loss is None:
            value = given.loss(noise, outputs, targets)
        else:
            value = given.train_loss(noise, outputs, targets, hparams, index)
        if given.regularizer is not None:
            value = value + given.regularizer(noise, params, hparams)
        return value, buffers

    training_stops, outer_stops = (
        ThroughStops(f"{part} of {type(module).__name__}")
        for part in ("training", "evaluation")
    )

    def inner_loss(
        params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        return training_stops(pass_of, params, buffers, hparams, batch)

    def outputs_of(state: TrainState, hparams: Hparams, examples: Examples) -> Any:
        at, noise = values(state.params, hparams), Noise(seed, no_step)
        return evaluation(at, state.buffers, examples.inputs, noise)[0]

    def judge(outputs: Any, targets: Any) -> Tensor:
        return given.loss(Noise(seed, no_step), outputs, targets)

    judged_by = Evaluation(outputs_of, judge, outer_stops)

    def holdout_loss(state: TrainState, hparams: Hparams) -> Tensor:
        loss = judged_by.validation_loss(held("holdout"), passes, None, seed)
        return loss(state, hparams)

    def test_metrics(state: TrainState, hparams: Hparams) -> Tensors:
        scores: dict[str, Any] = {"test_loss": judge}
        for name, metric in given.metrics.items():
            noise = Noise(seed, no_step)
            scores[f"test_{name}"] = partial(metric, noise)
        found = judged_by.metrics(state, hparams, held("test"), passes, scores)
        return {name: value.to(device) for name, value in found.items()}

    def as_module(state: TrainState, hparams: Hparams) -> nn.Module:
        tensors = values(state.params, hparams) | state.buffers
        plain = copied(own)
        return with_tensors(plain, tuned_norms(plain, batch_norm, tensors))

    step = Descent(inner_loss, optimizer)
    first = batch(0).data
    for network in (training, evaluation):
        noise = Noise(seed, no_step)
        network.provide(find_needs(network, module, buffers, first.inputs, noise))
    looks = (
        Look(part, network, trained, buffers, given, seed)
        for part, network in ((source, training), (judging, evaluation))
    )
    starts_here = given.loss_is_trained and init_params is None and frozen is None
    trained_on, judged_on = looks
    trained_on.first(first, judged=False, starts_here=starts_here)
    some = math.ceil(data.size)
    judged_on.over(some, passes, starts_here=starts_here)
    mean = judged_on.is_mean(some, passes)
    if passes is not None and not mean:
        raise no_mean(passes)
    outer_loss = judged_by.validation_loss(judging, passes, data.sample, seed)
    folded = judging.size >= 2 * FOLDS
    problem = BilevelProblem(
        init=init,
        batch=batch,
        step=step,
        outer_loss=outer_loss if mean else lambda s, h: outer_loss(s, h),
        inner_loss=lambda s, h, b: inner_loss(s.params, s.buffers, h, b)[0],
        outer_cost=judging.size / data.size,
        metrics=None if test is None else test_metrics,
        module=as_module,
        validation_size=judging.size,
        fold_losses=fold_losses(outer_loss) if folded else None,
        holdout_loss=None if data.holdout is None else holdout_loss,
        autocast=autocast,
    )
    return micro_batched(problem, micro_batches)


def mode_copies(
    module: nn.Module, policy: Policy
) -> tuple[nn.Module, nn.Module, set[str]]:
    """What training and evaluation call, and the buffers that they may write into."""
    seen = copied(module).train()
    # Its own modules and modes, but no second copy of what is frozen.
    tensors = chain(seen.parameters(), seen.buffers())
    judged = copied(seen, ((tensor, tensor) for tensor in tensors)).eval()
    for copy in (seen, judged):
        kept = apply_policy(copy, policy)
        _require_pure_embeddings(copy)
    return seen, judged, {name for name, _ in seen.named_buffers()} - kept


def _require_pure_embeddings(module: nn.Module) -> None:
    """Make gradients of embeddings dense, and refuse what makes them no gradients."""
    for layer in module.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            if layer.max_norm is not None:
                raise ValueError(
                    f"raymeta cannot differentiate {type(layer).__name__} with "
                    f"max_norm={layer.max_norm}, which writes into its weights: leave "
                    "it out, or divide by the norm in forward"
                )
            if layer.scale_grad_by_freq:
                raise ValueError(
                    f"raymeta cannot differentiate {type(layer).__name__} with "
                    "scale_grad_by_freq=True, whose gradient is not the derivative: "
                    "leave it out"
                )
            layer.sparse = False


def _require_names(
    hook: str, given: Tensors, *, of: set[str], all_of_them: bool = False
) -> None:
    """Raise ValueError where a hook gives tensors of unknown names, or too few."""
    others = set(given) ^ of if all_of_them else set(given) - of
    if others:
        raise ValueError(
            f"{hook} must return tensors named {sorted(of)}, but differs in "
            f"{sorted(others)}"
        )
