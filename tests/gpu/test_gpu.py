"""What a GPU computes is what a CPU computes: `pytest tests/gpu -m gpu`, without Ray.

Without the mark, the same code runs on the CPU.
"""

import pytest
import torch
from torch import distributed, nn
from torch.nn import functional as F

import raymeta
from raymeta.distributed import data_parallel
from raymeta.hypergrad import (
    ES,
    Checkpointed,
    Forward,
    Reverse,
    ShortTerm,
    Truncated,
    hypergradient,
)

cuda = pytest.param(
    "cuda",
    marks=[
        pytest.mark.gpu,
        pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    ],
)
each_device = pytest.mark.parametrize("device", ["cpu", cuda])
pytestmark = pytest.mark.usefixtures("float64")

ESTIMATORS = {
    "reverse": lambda spill: Reverse(6),
    "forward": lambda spill: Forward(6),
    "truncated": lambda spill: Truncated(6, 3),
    "short_term": lambda spill: ShortTerm(3),
    "checkpointed": lambda spill: Checkpointed(6, states=2, spill=spill),
    "resumed": lambda spill: Checkpointed(6, spill=spill, resume=True),
    "es": lambda spill: ES(6, sigma=0.01, pairs=2),
}


def problem(device: str, **others) -> raymeta.BilevelProblem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 6, generator=generator)
    y = x[:, :3].argmax(1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layers = nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)
    rule = raymeta.optim.adamw
    return raymeta.module_problem(
        nn.Sequential(*layers).to(device),
        loss=F.cross_entropy,
        train=(x[:16], y[:16]),
        val=(x[16:], y[16:]),
        batch_size=8,
        optimizer=lambda h: raymeta.optim.muon(
            h["lr"], others=rule(h["lr"], weight_decay=h["l2"], eps_root=1e-4)
        ),
        **others,
    )


def hparams(device: str) -> dict[str, torch.Tensor]:
    values = {"lr": 0.02, "l2": 0.1}
    return {name: torch.tensor(x, device=device) for name, x in values.items()}


def found(device: str, estimator, **others) -> dict[str, torch.Tensor]:
    result = hypergradient(problem(device, **others), hparams(device), estimator)
    assert all(g.device.type == device for g in result.grads.values())
    tensors = {"E": result.outer_loss, **result.grads}
    return {name: x.cpu() for name, x in tensors.items()}


def assert_same(ours, truth, rounding: float = 1e-8) -> None:
    for name, x in truth.items():
        torch.testing.assert_close(ours[name], x, rtol=rounding, atol=rounding)


@each_device
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_find_what_a_cpu_finds(device, name, tmp_path):
    estimator = ESTIMATORS[name](str(tmp_path))
    assert_same(found(device, estimator), found("cpu", estimator))
    assert not list(tmp_path.iterdir())


@each_device
def test_micro_batches_and_passes_are_the_same(device):
    parts = found(device, Reverse(6), micro_batches=2, val_batch_size=3)
    assert_same(parts, found("cpu", Reverse(6)))


@pytest.mark.parametrize("device", [cuda])
def test_compiled_steps_are_the_same(device):
    for estimator in (Reverse(6, compile=True), Forward(6, compile=True)):
        assert_same(found(device, estimator), found("cpu", Reverse(6)))


@each_device
def test_autocast_is_near(device):
    torch.set_default_dtype(torch.float32)
    half = found(device, Reverse(6), autocast=torch.bfloat16)
    wide = found("cpu", Reverse(6))
    assert_same(half, wide, rounding=0.2)


@each_device
def test_a_group_of_one_rank_shares_data(device, tmp_path):
    backend = "nccl" if device == "cuda" else "gloo"
    meet = f"file://{tmp_path}/meet"
    distributed.init_process_group(backend, init_method=meet, rank=0, world_size=1)
    try:
        shared = data_parallel(problem(device))
        ours = hypergradient(shared, hparams(device), Reverse(6)).grads
    finally:
        distributed.destroy_process_group()
    truth = found("cpu", Reverse(6))
    assert_same({k: g.cpu() for k, g in ours.items()}, {k: truth[k] for k in ours})
