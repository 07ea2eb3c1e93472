"""The benchmark job: a quick run, its tables, and its figures to reach."""

from contextlib import nullcontext
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from jobs.benchmarks import benchmark as job
from jobs.benchmarks import targets
from jobs.benchmarks.cases import BOTH, digits_run
from raymeta.hypergrad import Forward, Reverse


def is_run(name: str) -> bool:
    """Whether a quick run of the tests has it: compiling one method is enough."""
    return "compiled" not in name or name.startswith("Checkpointed")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder that a quick run wrote."""
    out = tmp_path_factory.mktemp("benchmark")
    growths = [
        growth._replace(
            methods=[m for m in growth.methods if not m.compiled],
            steps=[min(steps, 1600) for steps in growth.steps],
        )
        for growth in job.GROWTHS
    ]

    def in_double(model, steps, dtype, learned=BOTH):
        """Runs that are compiled once, for what agrees and for what is measured."""
        return digits_run(model, steps, torch.float64, learned)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "METHODS", [m for m in job.METHODS if is_run(m.name)])
        patch.setattr(job, "GROWTHS", growths)
        patch.setattr(job, "digits_run", in_double)
        patch.setattr(
            targets, "TARGETS", [t for t in targets.TARGETS if is_run(t.name)]
        )
        job.main(["--quick", "--out", str(out)])
    return out


def peak(estimator, steps: int) -> int:
    run = job.small_run(steps)
    return job.peak_bytes(partial(job.follow, estimator(steps), run))


def test_what_compiled_code_allocates_is_counted() -> None:
    small = job.small_run(40)  # what is compiled stays with its problem

    def unroll(steps: int) -> int:
        run = small._replace(steps=steps)
        call = partial(job.follow, Reverse(steps, compile=True), run)
        call()
        return job.peak_allocated(call)

    peaks = [unroll(n) for n in (10, 20, 40)]
    slopes = np.diff(peaks) / np.diff([10, 20, 40])
    # As of the eager run below.
    assert slopes[0] > 4 * 16 * 9
    assert slopes[1] == pytest.approx(slopes[0], rel=0.01)


def test_memory_of_forward_does_not_grow() -> None:
    assert peak(Forward, 200) == pytest.approx(peak(Forward, 20), rel=0.05)


def test_memory_of_reverse_grows_by_the_same_with_each_step() -> None:
    steps = [10, 20, 40]
    peaks = [peak(Reverse, n) for n in steps]
    slopes = np.diff(peaks) / np.diff(steps)
    # A step keeps at least the batch's activations, (16, 8) and (16, 1) floats.
    assert slopes[0] > 4 * 16 * 9
    assert slopes[1] == pytest.approx(slopes[0], rel=0.01)


def test_schedules_cover_the_run_and_begin_at_the_same_training() -> None:
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


def test_quick_run_writes_a_row_per_case(quick) -> None:
    times = pd.read_parquet(quick / "times.parquet")
    names = [method.name for method in job.METHODS if is_run(method.name)]
    assert set(times["model"]) == {"MLP 64-128-10"}
    assert set(times["steps"]) == {20}
    assert list(times["method"].unique()) == names
    assert {"plain torch.optim", "higher", "Checkpointed, compiled"} < set(names)
    assert (times.groupby("method").size() == 3).all()
    assert (times["seconds"] > 0).all()
    memory = pd.read_parquet(quick / "memory.parquet").set_index("method")
    exact = [m.name for m in job.METHODS if m.exact and is_run(m.name)]
    assert list(memory.index) == exact
    growth = pd.read_parquet(quick / "growth.parquet")
    lengths = growth.groupby("method")["steps"].apply(list).to_dict()
    assert lengths == {
        "Forward": [4, 64],
        "Reverse": [4, 8, 16, 40],
        "Checkpointed": [4, 16, 36, 64],
        "ShortTerm": [4, 40],
    }
    facts = {"cpu", "cores", "torch", "higher", "torchopt", "threads"}
    for frame in (times, memory, growth):
        assert facts < set(frame.columns)
    assert set(times["threads"]) == {1}


def test_tables_say_how_time_compares_and_memory_grows(quick) -> None:
    table = job.time_table(pd.read_parquet(quick / "times.parquet"))
    assert list(table["method"]) == [m.name for m in job.METHODS if is_run(m.name)]
    of = table.set_index("method")
    assert of.loc["plain torch.optim", "over plain torch.optim"] == "1.00 (1.00–1.00)"
    assert of.loc["higher", "over higher"] == "1.00 (1.00–1.00)"
    growth = job.growth_table(pd.read_parquet(quick / "growth.parquet"))
    growth = growth.set_index("method")
    assert growth["as expected"].all()
    assert growth.loc["Reverse", "bytes each"] > 4 * 16 * 9
    assert growth.loc["Forward", "growth"] <= 0.05


def test_tables_compute_medians_of_ratios_and_a_line() -> None:
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


def test_targets_compare_with_the_fastest_there_is() -> None:
    times = some_times({"plain torch.optim": 1, "higher": 4, "Reverse": 3})
    measured = targets.Measured(times, *[pd.DataFrame()] * 3)
    of = targets.time_over("Reverse", "higher", "TorchOpt")
    assert of(measured).to_dict() == {("m", 10): pytest.approx(0.75)}
    faster = some_times({"higher": 4, "TorchOpt": 2, "Reverse": 3})
    assert of(measured._replace(times=faster))["m", 10] == pytest.approx(1.5)


def test_targets_compare_memory_and_compiling() -> None:
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


def test_targets_say_what_is_reached(monkeypatch) -> None:
    times = some_times({"plain torch.optim": 1, "Reverse": 3})
    of = targets.time_over("Reverse", "plain torch.optim")
    both = [targets.Target("low", of, 2.9), targets.Target("high", of, 3.1)]
    monkeypatch.setattr(targets, "TARGETS", both)
    table = targets.target_table(targets.Measured(times, *[pd.DataFrame()] * 3))
    assert list(table["reached"]) == [False, True]
    assert list(table["is"]) == pytest.approx([3, 3])
    assert list(table["at most"]) == [2.9, 3.1]


def test_quick_run_judges_the_targets(quick) -> None:
    table = pd.read_parquet(quick / "targets.parquet")
    # A quick run compiles nothing in fresh processes.
    later = ("compile", "again")
    named = [t.name for t in targets.TARGETS if not t.name.endswith(later)]
    assert list(table["figure"]) == [name for name in named if is_run(name)]
    assert (table["reached"] == (table["is"] <= table["at most"])).all()


def test_methods_that_disagree_are_not_timed(monkeypatch) -> None:
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
def test_eager_methods_agree_on_every_model(monkeypatch, model) -> None:
    eager = [method for method in job.METHODS if not method.compiled]
    if model == "GRU 8-32":  # whose tangents are slow
        eager = [method for method in eager if method.learned != "32 values"]
    monkeypatch.setattr(job, "METHODS", eager)
    job.require_agreement(model, steps=3)


@pytest.fixture
def unmeasured(monkeypatch):
    """A job whose time and memory are known before; a figure to reach is missed."""
    times = some_times({"plain torch.optim": 1, "higher": 3})
    memory = pd.DataFrame(columns=["model", "method", "steps", "peak_bytes"])
    missed = pd.DataFrame({"figure": ["f"], "reached": [False]})
    monkeypatch.setattr(job, "require_agreement", lambda *_: None)
    monkeypatch.setattr(job, "measure_time", lambda *_, **__: times)
    monkeypatch.setattr(job, "measure_memory", lambda *_: memory)
    monkeypatch.setattr(job, "target_table", lambda measured: missed)
    return job


@pytest.mark.parametrize("power", [0, 1])
def test_only_a_failed_memory_check_ends_with_an_error(
    unmeasured, tmp_path, monkeypatch, power
) -> None:
    reverse = unmeasured.exact("Reverse", Reverse)
    cases = [unmeasured.Growth([reverse], (100, 200, 400), power)]
    monkeypatch.setattr(unmeasured, "GROWTHS", cases)
    ends = pytest.raises(SystemExit, match="memory does not grow")
    with nullcontext() if power else ends:
        unmeasured.main(["--quick", "--out", str(tmp_path)])
    assert len(pd.read_parquet(tmp_path / "growth.parquet")) == 3
    assert not pd.read_parquet(tmp_path / "targets.parquet")["reached"].any()


@pytest.mark.slow
def test_second_process_finds_what_the_first_compiled(monkeypatch) -> None:
    name = "plain raymeta, compiled"  # has the least to compile
    monkeypatch.setattr(job, "COMPILED", [name])
    (row,) = job.measure_compiling(["MLP 64-128-10"]).itertuples()
    assert (row.method, row.again) == (name, 0)
    assert 0 < row.warm < row.cold


def test_help_shows_the_defaults(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        job.main(["--help"])
    assert "(default: results/benchmark)" in capsys.readouterr().out
