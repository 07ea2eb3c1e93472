"""Modules of all shapes: what can be copied and run with other tensors."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from raymeta.hypergrad import Checkpointed, Forward, Reverse, hypergradient
from raymeta.testing.truth import largest_relative_error, run_differences
from tests.support.module_cases import data, hparams_of, mlp, problem_of

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning"),
]


def lazy() -> nn.Module:
    return mlp(nn.LazyLinear(6))


def keeping(what: Any) -> nn.Module:
    net = mlp()
    net[1].kept = what
    return net


def half_moved() -> nn.Module:
    net = mlp()
    net[0].to("meta")
    return net


REFUSED = {
    "a class": (lambda: nn.Tanh, "nn.Module, but got the class Tanh: give Tanh"),
    "a function": (lambda: torch.tanh, "nn.Module, but got builtin.*: wrap it in one"),
    "nothing": (lambda: None, "needs an nn.Module, but got NoneType: wrap it in one"),
    "DataParallel": (lambda: nn.DataParallel(mlp()), "DataParallel, .* give its .modu"),
    "DataParallel inside": (
        lambda: nn.Sequential(nn.DataParallel(mlp())),
        "cannot train DataParallel at 0, which sends its weights elsewhere: give its",
    ),
    "compiled": (lambda: torch.compile(mlp()), "OptimizedModule, .* give its ._orig_m"),
    "scripted": (
        lambda: torch.jit.script(mlp()),
        "RecursiveScriptModule, whose weights are compiled in: give the module that it",
    ),
    "traced": (
        lambda: torch.jit.trace(mlp(), data().tensors[0]),
        "TopLevelTracedModule, whose weights are compiled in: give the module that it",
    ),
    "exported": (
        lambda: torch.export.export(mlp(), data().tensors[:1]).module(),
        "cannot train GraphModule, which was exported in one mode: give the module tha",
    ),
    "quantized": (
        lambda: nn.Sequential(
            nn.Linear(5, 5), torch.ao.nn.quantized.dynamic.Linear(5, 3)
        ),
        "cannot train Linear at 1, which is quantized and has no derivative: give the",
    ),
    "on the meta device": (
        half_moved,
        "but 0.weight is on the meta device: use .*to_e",
    ),
    "without shapes": (lazy, "1.weight has none yet: call the module once on a batch"),
    "a lock": (
        lambda: keeping(threading.Lock()),
        "runs copies of a module, but Tanh.kept cannot be copied .*: keep it outside",
    ),
    "a generator": (
        lambda: keeping(i for i in range(3)),
        "runs copies of a module, but Tanh.kept cannot be copied .*: keep it outside",
    ),
    "another dtype": (
        lambda: mlp().half(),
        r"Sequential cannot be called with the first batch, inputs of \(8, 5\) float64",
    ),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message) as refusal:
        problem_of(make())
    assert "\n" not in str(refusal.value)


@dataclass
class Output:
    logits: Tensor
    loss: Tensor | None = None


class Answering(nn.Module):
    """Outputs of a kind."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.net, self.kind = mlp(), kind

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        if self.kind is dict:
            return {"logits": logits, "count": 3, "state": None}
        if self.kind is tuple:
            return logits, logits.mean(), None
        return Output(logits)


LOSSES = {
    dict: lambda outputs, targets: F.cross_entropy(outputs["logits"], targets),
    tuple: lambda outputs, targets: F.cross_entropy(outputs[0], targets) + outputs[1],
    Output: lambda outputs, targets: F.cross_entropy(outputs.logits, targets),
}


def used_lazy() -> nn.Module:
    net = lazy()
    net(data().tensors[0])
    return net


def of_inference() -> nn.Module:
    with torch.inference_mode():
        return mlp(nn.BatchNorm1d(6))


class Hidden(nn.Module):
    """Frozen features that are no part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.net = [nn.Linear(5, 5)], mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.features[0](x))


class FrozenNorm(nn.Module):
    """A batch norm that stays in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(nn.BatchNorm1d(6))

    def train(self, mode: bool = True) -> nn.Module:
        super().train(mode)
        self.net[1].eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def adapted() -> nn.Module:
    """Low-rank weights between frozen ones."""
    net = mlp(nn.Linear(6, 2, bias=False), nn.Linear(2, 6, bias=False))
    net[0].requires_grad_(False)
    net[4].requires_grad_(False)
    return net


RIGHT = {
    "dict": (lambda: Answering(dict), {"loss": LOSSES[dict]}),
    "tuple": (lambda: Answering(tuple), {"loss": LOSSES[tuple]}),
    "dataclass": (lambda: Answering(Output), {"loss": LOSSES[Output]}),
    "lazy, called once": (used_lazy, {}),
    "made in inference mode": (of_inference, {}),
    "features in a list": (Hidden, {}),
    "a norm in evaluation mode": (FrozenNorm, {}),
    "low-rank adaptation": (adapted, {}),
    "a graph": (lambda: torch.fx.symbolic_trace(mlp()), {}),
    "spectral norm": (
        lambda: mlp(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.Linear(8, 6)),
        {},
    ),
    "spectral norm of old": (lambda: mlp(nn.utils.spectral_norm(nn.Linear(6, 6))), {}),
    "weight norm of old": (lambda: mlp(nn.utils.weight_norm(nn.Linear(6, 6))), {}),
}


@pytest.mark.parametrize(("make", "others"), RIGHT.values(), ids=RIGHT)
def test_hypergradients_are_the_true_ones(make, others):
    with torch.random.fork_rng([]):
        torch.manual_seed(5)
        module = make()
    problem = problem_of(module, **others)
    truth = run_differences(problem, hparams_of(), 4)
    for estimator in (Reverse(4), Checkpointed(4), Forward(4)):
        grads = hypergradient(problem, hparams_of(), estimator).grads
        assert largest_relative_error(grads, truth) < 1e-7


def test_a_module_that_fully_shard_has_changed_is_refused(tmp_path):
    meet = f"file://{tmp_path}/meet"
    distributed.init_process_group("gloo", init_method=meet, rank=0, world_size=1)
    try:
        module = mlp()
        fully_shard(module, mesh=init_device_mesh("cpu", (1,)))
    finally:
        distributed.destroy_process_group()
    with pytest.raises(ValueError, match=r"train FSDPSequential, .*data_parallel"):
        problem_of(module)
