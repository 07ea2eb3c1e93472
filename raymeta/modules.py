"""A bilevel problem from the user's own `nn.Module` and data sets."""

from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules import batchnorm
from torch.utils.data import Dataset, Subset, TensorDataset, default_collate

from raymeta.optim import Optimizer
from raymeta.problem import BilevelProblem, Descent, TrainState
from raymeta.tree import tree_map
from raymeta.types import Batch, Hparams, Tensors

Loss = Callable[[Any, Tensor], Tensor]


def module_problem(
    module: nn.Module,
    *,
    loss: Loss,
    train: Dataset,
    val: Dataset,
    optimizer: Callable[[Hparams], Optimizer],
    batch_size: int | None = None,
    seed: int = 0,
    test: Dataset | None = None,
    metrics: Mapping[str, Loss] | None = None,
    regularizer: Callable[[Tensors, Hparams], Tensor] | None = None,
) -> BilevelProblem:
    """Training of any module, with the validation loss as outer loss.

    The module itself is never changed: weights and buffers live in the state. Its
    present weights are the initial ones, whatever happens to it later; frozen
    parameters stay as they are. Training steps run it in training mode, everything
    else in evaluation mode. Randomness inside it (dropout) is a function of (seed, t).
    Derivatives reach the outer loss through the running statistics of batch norms too.

    Args:
        module: called with the inputs of a batch.
        loss: (outputs, targets) -> mean loss, shape ().
        train: a `TensorDataset`, or any map-style data set of (inputs…, target).
        val: likewise; the outer loss is the mean loss over all of it.
        optimizer: λ -> the inner update rule.
        batch_size: examples per step, drawn without replacement from a new
            permutation each epoch; all of them by default.
        seed: of the batch order and of randomness inside the module.
        test: held-out data for `BilevelProblem.metrics`.
        metrics: name -> (outputs, targets) -> shape (), computed on `test` beside
            `test_loss` and named `test_<name>`.
        regularizer: (params, λ) -> shape (), added to the training loss.

    Raises:
        ValueError: a data set is empty, smaller than a batch, or without targets;
            metrics without test data; the module has nothing to train, or running
            statistics that have no derivative.
    """
    seen = deepcopy(module).train()
    # Its own modules and modes, but no second copy of what is frozen.
    tensors = (*seen.parameters(), *seen.buffers())
    judged = deepcopy(seen, {id(tensor): tensor for tensor in tensors}).eval()
    for network in (seen, judged):
        _expose_statistics(network)
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
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    if metrics and test is None:
        raise ValueError(
            f"module_problem needs test data for metrics {sorted(metrics)}: give test="
        )
    n_train, n_val = _length("train", train), _length("val", val)
    size = n_train if batch_size is None else batch_size
    if not 1 <= size <= n_train:
        raise ValueError(
            f"module_problem needs 1 <= batch_size <= len(train), but got "
            f"batch_size={batch_size}, len(train)={n_train}"
        )
    if test is not None:
        _length("test", test)
    for name, part in (("train", train), ("val", val)):
        _require_targets(name, part)
    examples = _Examples(train, device)
    val_data = _whole(val, device)
    # Read only when the final look is due: the search must not even touch it.
    test_data = lru_cache(lambda: None if test is None else _whole(test, device))

    def init(hparams: Hparams) -> TrainState:
        params = {name: p.clone() for name, p in trained.items()}
        return TrainState(params, optimizer(hparams).init(params), dict(buffers))

    def batch(t: int) -> Batch:
        index = _batch_indices(n_train, size, seed, t)
        return Batch(torch.tensor(t, device=device), examples.at(index))

    def inner_loss(
        params: Tensors, buffers: Tensors, hparams: Hparams, batch: Batch
    ) -> tuple[Tensor, Tensors]:
        *inputs, targets = batch.data
        # Cloned for modules that write into a buffer; one dict, for `functional_call`
        # puts there what a module binds to a buffer's name anew.
        tensors = params | {name: b.clone() for name, b in buffers.items()}
        with _randomness_of(seed, batch.index):
            outputs = functional_call(seen, tensors, tuple(inputs))
        value = loss(outputs, targets)
        if regularizer is not None:
            value = value + regularizer(params, hparams)
        return value, {name: tensors[name] for name in buffers}

    def judge(state: TrainState, data: Any) -> tuple[Any, Tensor]:
        *inputs, targets = data
        outputs = functional_call(judged, (state.params, state.buffers), tuple(inputs))
        return outputs, targets

    def outer_loss(state: TrainState, hparams: Hparams) -> Tensor:
        return loss(*judge(state, val_data))

    def test_metrics(state: TrainState, hparams: Hparams) -> Tensors:
        with torch.no_grad():
            outputs, targets = judge(state, test_data())
            values = {"test_loss": loss(outputs, targets)}
            for name, metric in (metrics or {}).items():
                values[f"test_{name}"] = metric(outputs, targets)
        return values

    return BilevelProblem(
        init=init,
        batch=batch,
        step=Descent(inner_loss, optimizer),
        outer_loss=outer_loss,
        inner_loss=lambda s, h, b: inner_loss(s.params, s.buffers, h, b)[0],
        outer_cost=n_val / size,
        metrics=None if test is None else test_metrics,
    )


def _expose_statistics(module: nn.Module) -> None:
    """Let batch norms compute where derivatives see their running statistics.

    torch's kernel updates them behind the back of autograd, and refuses to
    differentiate the outer loss by them: a part of dE/dλ would be missing.

    Raises:
        ValueError: another layer keeps running statistics by such a kernel.
    """
    for layer in module.modules():
        if not (isinstance(layer, batchnorm._NormBase) and layer.track_running_stats):
            continue
        if type(layer).forward is not batchnorm._BatchNorm.forward:
            raise ValueError(
                "module_problem cannot differentiate the running statistics of "
                f"{type(layer).__name__}: use nn.BatchNorm1d, 2d or 3d, or "
                "track_running_stats=False"
            )
        layer.forward = partial(_batch_norm, layer)


def _batch_norm(layer: Any, x: Tensor) -> Tensor:
    r"""`nn.BatchNorm` of x, shape (batch, channels, ...), by differentiable operations.

    $$ y = \gamma \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta $$

    Source: Ioffe & Szegedy 2015, Algorithm 1; running statistics as in `torch.nn`.
    """
    layer._check_input_dim(x)
    if layer.training:
        count = x.numel() // x.shape[1]
        if count == 1:
            raise ValueError(
                "batch normalization needs more than one value per channel for "
                f"training, but got inputs of shape {tuple(x.shape)}: raise batch_size"
            )
        axes = [0, *range(2, x.ndim)]
        var, mean = torch.var_mean(x, axes, correction=0)
        layer.num_batches_tracked = layer.num_batches_tracked + 1
        rate = layer.momentum
        if rate is None:  # the mean over all batches
            rate = 1 / layer.num_batches_tracked.to(mean.dtype)
        unbiased = var * (count / (count - 1))
        layer.running_mean = (1 - rate) * layer.running_mean + rate * mean
        layer.running_var = (1 - rate) * layer.running_var + rate * unbiased
    else:
        mean, var = layer.running_mean, layer.running_var
    scale = (var + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    shift = -mean * scale
    if layer.bias is not None:
        shift = shift + layer.bias
    along = (-1, *[1] * (x.ndim - 2))
    return x * scale.view(along) + shift.view(along)


class _Examples:
    """A data set by index: tensors are gathered, other data sets collated."""

    def __init__(self, data: Dataset, device: torch.device) -> None:
        self._data, self._device = data, device
        self._tensors: tuple[Tensor, ...] | None = None
        if isinstance(data, TensorDataset):
            self._tensors = tuple(tensor.to(device) for tensor in data.tensors)
        elif isinstance(data, Subset) and isinstance(data.dataset, TensorDataset):
            rows = torch.as_tensor(data.indices)
            tensors = data.dataset.tensors
            self._tensors = tuple(tensor[rows].to(device) for tensor in tensors)

    def at(self, index: Tensor) -> Any:
        if self._tensors is not None:
            index = index.to(self._device)
            return [tensor[index] for tensor in self._tensors]
        items = [self._data[i] for i in index.tolist()]
        return tree_map(lambda x: x.to(self._device), default_collate(items))


def _whole(data: Dataset, device: torch.device) -> Any:
    count = len(cast(Sized, data))
    return _Examples(data, device).at(torch.arange(count))


def _length(name: str, data: Dataset) -> int:
    count = len(cast(Sized, data))
    if count == 0:
        raise ValueError(f"module_problem needs a non-empty data set, but {name} is")
    return count


def _require_targets(name: str, data: Dataset) -> None:
    example = data[0]
    if not isinstance(example, tuple | list) or len(example) < 2:
        raise ValueError(
            "module_problem needs examples that are tuples (inputs…, target), but got "
            f"{name}[0]={example!r}: wrap the data set, or use TensorDataset(x, y)"
        )


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(_mix(seed, epoch))
    return torch.randperm(count, generator=generator)


def _batch_indices(count: int, size: int, seed: int, t: int) -> Tensor:
    epoch, position = divmod(t, count // size)
    return _permutation(count, seed, epoch)[position * size : (position + 1) * size]


def _mix(seed: int, t: int) -> int:
    """One 63-bit seed from two numbers, without the collisions of a sum."""
    return (seed * 0x9E3779B97F4A7C15 + t * 0xBF58476D1CE4E5B9 + 1) % (1 << 63)


@contextmanager
def _randomness_of(seed: int, t: Tensor) -> Iterator[None]:
    """Seed the device's generator by (seed, t) and give it back as it was."""
    # Not torch.manual_seed: it walks the Python stack, which costs more than a step.
    generator = _generator(t.device)
    before = generator.get_state()
    generator.manual_seed(_mix(seed, int(t)))
    try:
        yield
    finally:
        generator.set_state(before)


def _generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    return torch.default_generator
