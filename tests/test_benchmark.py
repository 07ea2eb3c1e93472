"""The benchmark job: its memory meter against known allocations, and a quick run."""

import gc
import importlib
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch.func import grad, jvp, vmap

from raymeta.hypergrad import Forward, Reverse

JOBS = Path(__file__).parents[1] / "jobs"


@pytest.fixture(scope="module")
def job() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(JOBS)  # as for `python jobs/benchmark.py`
        return importlib.import_module("benchmark")


@pytest.fixture
def meter(job):
    return importlib.import_module("_meter").PeakMemory()


@pytest.fixture(scope="module")
def quick(job, tmp_path_factory):
    """The folder that a quick run wrote."""
    out = tmp_path_factory.mktemp("benchmark")
    job.main(["--quick", "--out", str(out)])
    return out


def peak(job, estimator, steps: int) -> int:
    run = job.Run(job.small_problem(), job.HPARAMS, steps)
    return job.peak_bytes(partial(job.follow, estimator, run))


def test_meter_knows_what_lives_and_what_lived(meter) -> None:
    with meter:
        x = torch.ones(1000)  # 4,000 bytes
        x = x.double()  # 8,000 while the first still lives
        assert (meter.live, meter.peak) == (8000, 12000)
        for _ in range(10):
            torch.ones(250)
    assert (meter.live, meter.peak) == (8000, 12000)
    del x
    assert (meter.live, meter.peak) == (0, 12000)


def test_meter_counts_a_storage_once_and_until_its_last_view_dies(meter) -> None:
    with meter:
        x = torch.zeros(10, 100)
        view = x.t()[3:].reshape(-1, 10)[0]
        x.add_(1)
        assert meter.live == 4000
        del x
        gc.collect()
        assert meter.live == 4000
        del view
    assert (meter.live, meter.peak) == (0, 4000)


def test_meter_ignores_storages_from_before_the_block(meter) -> None:
    x, y = torch.zeros(1000), torch.zeros(1000)
    with meter:
        views = [x.detach(), x.view(10, 100)[2:], *y.split(500)]
        y.mul_(2)
    assert len(views) == 4
    del x, y, views
    assert (meter.live, meter.peak) == (0, 0)


def test_meter_counts_what_autograd_saves(meter) -> None:
    x = torch.ones(1000, requires_grad=True)
    with meter:
        loss = x.exp().sum()
        assert meter.live == 4004  # exp saves its result, which no name holds
        loss.backward()
        assert meter.live == 4004  # the gradient instead
    assert x.grad is not None
    del loss
    assert meter.live == 4000


def test_meter_counts_inside_function_transforms(meter) -> None:
    x = torch.ones(10, 100)
    with meter:
        mapped = vmap(torch.sin)(x)
        assert meter.live == 4000
        del mapped
        values = jvp(torch.exp, (x,), (x,))
        assert meter.live == 8000
        del values
        meter.peak = 0
        gradient = grad(lambda x: x.exp().sum())(x)
        assert meter.live == gradient.nbytes == 4000
        assert 8000 <= meter.peak <= 8016  # exp(x), its gradient; E and its seed
        del gradient
        rows = vmap(lambda v: jvp(torch.exp, (x[0],), (v,))[1])(x)
        assert meter.live == 4000
    del rows
    assert meter.live == 0


def test_meter_gives_no_bytes_to_tensors_without_memory(meter) -> None:
    with meter:
        tensors = [
            torch.empty(1000, device="meta"),
            torch._efficientzerotensor(1000),
        ]
    assert len(tensors) == 2
    assert meter.peak == 0


def test_memory_of_forward_does_not_grow(job) -> None:
    assert peak(job, Forward(500), 500) == pytest.approx(
        peak(job, Forward(50), 50), rel=0.05
    )


def test_memory_of_reverse_grows_by_the_same_with_each_step(job) -> None:
    steps = [50, 100, 200]
    peaks = [peak(job, Reverse(n), n) for n in steps]
    slopes = np.diff(peaks) / np.diff(steps)
    # A step keeps at least the batch's activations, (16, 8) and (16, 1) floats.
    assert slopes[0] > 4 * 16 * 9
    assert slopes[1] == pytest.approx(slopes[0], rel=0.01)


def test_quick_run_writes_a_row_per_case(job, quick) -> None:
    times = pd.read_parquet(quick / "time.parquet")
    assert set(times["model"]) == {"MLP 64-128-10"}
    assert set(times["method"]) == {
        "plain torch.optim",
        "plain raymeta",
        "Reverse",
        "Checkpointed",
        "Reversible",
        "Forward",
        "ShortTerm, each step",
        "higher",
    }
    assert (times.groupby("method").size() == 3).all()
    assert (times["seconds"] > 0).all()
    memory = pd.read_parquet(quick / "memory.parquet")
    lengths = memory.groupby("estimator")["steps"].apply(list).to_dict()
    assert lengths == {
        "Forward": [5, 500],
        "Reverse": [5, 10, 20, 50],
        "ShortTerm": [5, 50],
    }
    facts = {"cpu", "cores", "torch", "higher", "threads"}
    assert facts < set(times.columns)
    assert facts < set(memory.columns)
    assert set(times["threads"]) == {1}


def test_tables_say_how_time_compares_and_memory_grows(job, quick) -> None:
    table = job.time_table(pd.read_parquet(quick / "time.parquet"))
    assert list(table["method"]) == [method.name for method in job.METHODS]
    of = table.set_index("method")
    assert of.loc["plain torch.optim", "over plain torch.optim"] == "1.00 (1.00–1.00)"
    assert of.loc["higher", "over higher"] == "1.00 (1.00–1.00)"
    growth = job.memory_table(pd.read_parquet(quick / "memory.parquet"))
    growth = growth.set_index("estimator")
    assert growth["as expected"].all()
    assert growth.loc["Reverse", "bytes/step"] > 4 * 16 * 9
    assert growth.loc["Forward", "growth"] <= 0.05


def test_tables_compute_medians_of_ratios_and_a_line(job) -> None:
    names = [method.name for method in job.METHODS]
    rows = [
        ("m", name, 10, i, seconds * (1 + k))
        for i, seconds in enumerate([0.1, 0.4, 0.2])
        for k, name in enumerate(names)
    ]
    columns = ["model", "method", "steps", "round", "seconds"]
    table = job.time_table(pd.DataFrame(rows, columns=columns))
    per_step = [20.0 * (1 + k) for k in range(len(names))]
    assert list(table["ms/step"]) == pytest.approx(per_step)
    assert table["over plain torch.optim"][3] == "4.00 (4.00–4.00)"
    wrong = [("Forward", 10, 100), ("Forward", 20, 200)]
    wrong += [("Reverse", 10, 100), ("Reverse", 20, 200), ("Reverse", 30, 400)]
    wrong += [("ShortTerm", 10, 100), ("ShortTerm", 20, 104)]
    columns = ["estimator", "steps", "peak_bytes"]
    growth = job.memory_table(pd.DataFrame(wrong, columns=columns))
    assert list(growth["as expected"]) == [False, False, True]
    assert growth["bytes/step"][1] == pytest.approx(15)
    assert growth["residual"][1] == pytest.approx(1 / 6)  # 83.3 for 100


def test_methods_that_disagree_are_not_timed(job, monkeypatch) -> None:
    def off_by_a_millionth(run):
        outer_loss, grads = job.unroll_with_higher(run)
        return outer_loss, {**grads, "lr": grads["lr"] * (1 + 1e-6)}

    wrong = job.Method("wrong", off_by_a_millionth, exact=True)
    monkeypatch.setattr(job, "METHODS", [*job.METHODS, wrong])
    with pytest.raises(ArithmeticError, match=r"wrong on MLP 64-128-10 .* in 'lr'"):
        job.require_agreement("MLP 64-128-10", steps=3)
    monkeypatch.setattr(job, "METHODS", job.METHODS[:-1])
    job.require_agreement("MLP 64-128-10", steps=3)


def test_a_failed_memory_check_ends_with_an_error(job, tmp_path, monkeypatch) -> None:
    cases = [job.MemoryCase("Reverse", Reverse, (100, 200), grows=False)]
    monkeypatch.setattr(job, "MEMORY", cases)
    monkeypatch.setattr(job, "METHODS", [job.METHODS[0], job.METHODS[-1]])
    with pytest.raises(SystemExit, match="memory does not grow"):
        job.main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "memory.parquet").exists()


def test_help_shows_the_defaults(job, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        job.main(["--help"])
    assert "(default: results/benchmark)" in capsys.readouterr().out
