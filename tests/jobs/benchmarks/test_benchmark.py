"""The benchmark job: its memory meter against known allocations, and a quick run."""

import gc
import importlib
from functools import partial
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from torch.func import grad, jvp, vmap

from raymeta.hypergrad import Checkpointed, Forward, Reverse


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return importlib.import_module("jobs.benchmarks.benchmark")


@pytest.fixture
def meter(job):
    return importlib.import_module("jobs.benchmarks.memory").PeakMemory()


@pytest.fixture(scope="module")
def targets(job) -> ModuleType:
    return importlib.import_module("jobs.benchmarks.targets")


@pytest.fixture(scope="module")
def quick(job, tmp_path_factory):
    """The folder that a quick run wrote."""
    out = tmp_path_factory.mktemp("benchmark")
    job.main(["--quick", "--out", str(out)])
    return out


def peak(job, estimator, steps: int) -> int:
    run = job.small_run(steps)
    return job.peak_bytes(partial(job.follow, estimator(steps), run))


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


@pytest.mark.parametrize("estimator", [Reverse, Checkpointed, Forward])
def test_both_meters_agree_on_eager_code(job, estimator) -> None:
    call = partial(job.follow, estimator(20), job.small_run(20))
    call()  # traces, where something is traced
    # But for a scalar that an operator allocates and frees inside itself.
    assert 0 <= job.peak_allocated(call) - job.peak_bytes(call) <= 8


def test_what_compiled_code_allocates_is_counted(job) -> None:
    def unroll(steps: int) -> int:
        run = job.small_run(steps)
        call = partial(job.follow, Reverse(steps, compile=True), run)
        call()
        return job.peak_allocated(call)

    peaks = [unroll(n) for n in (10, 20, 40)]
    slopes = np.diff(peaks) / np.diff([10, 20, 40])
    # As of the eager run below.
    assert slopes[0] > 4 * 16 * 9
    assert slopes[1] == pytest.approx(slopes[0], rel=0.01)


def test_memory_of_forward_does_not_grow(job) -> None:
    assert peak(job, Forward, 500) == pytest.approx(peak(job, Forward, 50), rel=0.05)


def test_memory_of_reverse_grows_by_the_same_with_each_step(job) -> None:
    steps = [50, 100, 200]
    peaks = [peak(job, Reverse, n) for n in steps]
    slopes = np.diff(peaks) / np.diff(steps)
    # A step keeps at least the batch's activations, (16, 8) and (16, 1) floats.
    assert slopes[0] > 4 * 16 * 9
    assert slopes[1] == pytest.approx(slopes[0], rel=0.01)


def test_schedules_cover_the_run_and_begin_at_the_same_training(job) -> None:
    """32 values train as the 2 that they repeat, and their derivatives add up."""
    grads = {}
    for learned in ("lr, momentum", "32 values"):
        run = job.digits_run("MLP 64-128-10", 37, torch.float64, learned)
        grads[learned] = job.follow(Reverse(37), run)[1]
    for name, total in grads["lr, momentum"].items():
        parts = grads["32 values"][name]
        assert parts.shape == (16,)
        assert parts.count_nonzero() == 16
        torch.testing.assert_close(parts.sum(), total, rtol=1e-10, atol=0)


def test_quick_run_writes_a_row_per_case(job, quick) -> None:
    times = pd.read_parquet(quick / "times.parquet")
    names = [method.name for method in job.METHODS]
    assert set(times["model"]) == {"MLP 64-128-10"}
    assert set(times["steps"]) == {20}
    assert list(times["method"].unique()) == names
    assert {"plain torch.optim", "higher", "Checkpointed, compiled"} < set(names)
    assert (times.groupby("method").size() == 3).all()
    assert (times["seconds"] > 0).all()
    memory = pd.read_parquet(quick / "memory.parquet").set_index("method")
    exact = [method.name for method in job.METHODS if method.exact]
    assert list(memory.index) == exact
    growth = pd.read_parquet(quick / "growth.parquet")
    lengths = growth.groupby("method")["steps"].apply(list).to_dict()
    assert lengths == {
        "Forward": [4, 400],
        "Forward, compiled": [4, 400],
        "Reverse": [4, 8, 16, 40],
        "Checkpointed": [4, 16, 36, 64],
        "Checkpointed, compiled": [4, 16, 36, 64],
        "ShortTerm": [4, 40],
    }
    facts = {"cpu", "cores", "torch", "higher", "torchopt", "threads"}
    for frame in (times, memory, growth):
        assert facts < set(frame.columns)
    assert set(times["threads"]) == {1}


def test_tables_say_how_time_compares_and_memory_grows(job, quick) -> None:
    table = job.time_table(pd.read_parquet(quick / "times.parquet"))
    assert list(table["method"]) == [method.name for method in job.METHODS]
    of = table.set_index("method")
    assert of.loc["plain torch.optim", "over plain torch.optim"] == "1.00 (1.00–1.00)"
    assert of.loc["higher", "over higher"] == "1.00 (1.00–1.00)"
    growth = job.growth_table(pd.read_parquet(quick / "growth.parquet"))
    growth = growth.set_index("method")
    assert growth["as expected"].all()
    assert growth.loc["Reverse", "bytes each"] > 4 * 16 * 9
    assert growth.loc["Forward", "growth"] <= 0.05


def test_tables_compute_medians_of_ratios_and_a_line(job) -> None:
    times = some_times({"plain torch.optim": 1, "higher": 3, "Reverse": 4})
    table = job.time_table(times).set_index("method")
    assert list(table["ms/step"]) == pytest.approx([20.0, 60.0, 80.0])
    assert table.loc["Reverse", "over plain torch.optim"] == "4.00 (4.00–4.00)"
    assert table.loc["Reverse", "over higher"] == "1.33 (1.33–1.33)"
    wrong = [("Forward", 10, 100, 0.0), ("Forward", 20, 200, 0.0)]
    wrong += [("Reverse", 10, 100, 1.0), ("Reverse", 20, 200, 1.0)]
    wrong += [("Reverse", 30, 400, 1.0)]
    wrong += [("Checkpointed", 4, 7, 0.5), ("Checkpointed", 16, 13, 0.5)]
    wrong += [("ShortTerm", 10, 100, 0.0), ("ShortTerm", 20, 104, 0.0)]
    columns = ["method", "steps", "peak_bytes", "power"]
    growth = job.growth_table(pd.DataFrame(wrong, columns=columns))
    assert list(growth["as expected"]) == [False, False, True, True]
    assert growth["bytes each"][1] == pytest.approx(15)
    assert growth["residual"][1] == pytest.approx(1 / 6)  # 83.3 for 100
    assert growth["bytes each"][2] == pytest.approx(3)  # 1 + 3 √T


def some_times(factors: dict[str, float]) -> pd.DataFrame:
    """Three rounds of 10 steps, in which methods take so many times as long."""
    rows = [
        ("m", name, 10, i, seconds * factor)
        for i, seconds in enumerate([0.1, 0.4, 0.2])
        for name, factor in factors.items()
    ]
    columns = ["model", "method", "steps", "round", "seconds"]
    return pd.DataFrame(rows, columns=columns)


def test_targets_compare_with_the_fastest_there_is(targets) -> None:
    times = some_times({"plain torch.optim": 1, "higher": 4, "Reverse": 3})
    measured = targets.Measured(times, *[pd.DataFrame()] * 3)
    of = targets.time_over("Reverse", "higher", "TorchOpt")
    assert of(measured).to_dict() == {("m", 10): pytest.approx(0.75)}
    faster = some_times({"higher": 4, "TorchOpt": 2, "Reverse": 3})
    assert of(measured._replace(times=faster))["m", 10] == pytest.approx(1.5)


def test_targets_compare_memory_and_compiling(targets) -> None:
    memory = pd.DataFrame(
        [("m", "Reverse", 10, 400), ("m", "Reversible", 10, 10)],
        columns=["model", "method", "steps", "peak_bytes"],
    )
    growth = memory.assign(steps=[100, 10_000], method="Forward")
    compiling = pd.DataFrame(
        [("m", "Forward", 4, 8.0, 2.0, 0), ("m", "Reverse", 4, 9.0, 3.0, 1)],
        columns=["model", "method", "steps", "cold", "warm", "again"],
    )
    measured = targets.Measured(pd.DataFrame(), memory, growth, compiling)
    less = targets.memory_over("Reversible", "Reverse")(measured)
    assert less.to_dict() == {("m", 10): 0.025}
    constant = targets.memory_growth("Forward")(measured)
    assert constant.to_dict() == {("m", 10_000): 0.025}
    cold = targets.compiling("cold", "Reverse")(measured)
    assert cold.to_dict() == {("m", 4): 9.0}


def test_targets_say_what_is_reached(targets, monkeypatch) -> None:
    times = some_times({"plain torch.optim": 1, "Reverse": 3})
    of = targets.time_over("Reverse", "plain torch.optim")
    both = [targets.Target("low", of, 2.9), targets.Target("high", of, 3.1)]
    monkeypatch.setattr(targets, "TARGETS", both)
    table = targets.target_table(targets.Measured(times, *[pd.DataFrame()] * 3))
    assert list(table["reached"]) == [False, True]
    assert list(table["is"]) == pytest.approx([3, 3])
    assert list(table["at most"]) == [2.9, 3.1]


def test_quick_run_judges_the_targets(targets, quick) -> None:
    table = pd.read_parquet(quick / "targets.parquet")
    # A quick run compiles nothing in fresh processes.
    timed = [
        t.name for t in targets.TARGETS if not t.name.endswith(("compile", "again"))
    ]
    assert list(table["figure"]) == timed
    assert (table["reached"] == (table["is"] <= table["at most"])).all()


def test_methods_that_disagree_are_not_timed(job, monkeypatch) -> None:
    (higher,) = (method for method in job.METHODS if method.name == "higher")

    def off_by_a_millionth(run):
        outer_loss, grads = higher.run(run)
        return outer_loss, {**grads, "lr": grads["lr"] * (1 + 1e-6)}

    wrong = job.Method("wrong", off_by_a_millionth, exact=True)
    monkeypatch.setattr(job, "METHODS", [higher, wrong])
    with pytest.raises(ArithmeticError, match=r"wrong on MLP 64-128-10 .* in 'lr'"):
        job.require_agreement("MLP 64-128-10", steps=3)
    monkeypatch.setattr(job, "METHODS", [higher])
    job.require_agreement("MLP 64-128-10", steps=3)


@pytest.mark.parametrize("model", ["CNN 1-8-16", "GRU 8-32"])
def test_eager_methods_agree_on_every_model(job, monkeypatch, model) -> None:
    eager = [method for method in job.METHODS if not method.compiled]
    monkeypatch.setattr(job, "METHODS", eager)
    job.require_agreement(model, steps=3)


def test_a_failed_memory_check_ends_with_an_error(job, tmp_path, monkeypatch) -> None:
    cases = [job.Growth([job.exact("Reverse", Reverse)], (100, 200), power=0)]
    monkeypatch.setattr(job, "GROWTHS", cases)
    monkeypatch.setattr(job, "target_table", lambda measured: pd.DataFrame())
    first, last = job.METHODS[0], job.exact("higher", Reverse)
    monkeypatch.setattr(job, "METHODS", [first, last])
    with pytest.raises(SystemExit, match="memory does not grow"):
        job.main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "growth.parquet").exists()


def test_a_missed_target_does_not_fail_the_run(job, tmp_path, monkeypatch) -> None:
    missed = pd.DataFrame({"figure": ["f"], "reached": [False]})
    monkeypatch.setattr(job, "GROWTHS", job.GROWTHS[-1:])
    monkeypatch.setattr(job, "target_table", lambda measured: missed)
    first, last = job.METHODS[0], job.exact("higher", Reverse)
    monkeypatch.setattr(job, "METHODS", [first, last])
    job.main(["--quick", "--out", str(tmp_path)])
    assert not pd.read_parquet(tmp_path / "targets.parquet")["reached"].any()


@pytest.mark.slow
def test_second_process_finds_what_the_first_compiled(job, monkeypatch) -> None:
    name = "Forward, 2 values, compiled"
    monkeypatch.setattr(job, "COMPILED", [name])
    (row,) = job.measure_compiling(["MLP 64-128-10"]).itertuples()
    assert (row.method, row.again) == (name, 0)
    assert 0 < row.warm < row.cold


def test_help_shows_the_defaults(job, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        job.main(["--help"])
    assert "(default: results/benchmark)" in capsys.readouterr().out
