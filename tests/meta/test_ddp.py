"""Real processes: a wrapped `MetaModule` has the meta-gradient of all tasks."""

import pytest
import torch
from torch import multiprocessing

from raymeta.meta import MetaModule, first_order
from tests.support.ddp_worker import BY_TASK, STEPS, TASKS, with_unused, work
from tests.support.learners import CASES, assert_close, gradients, sinusoids

pytestmark = pytest.mark.usefixtures("float64")

ENGINES = ["functional", "higher"]
each_engine = pytest.mark.parametrize("engine", ENGINES)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    """What each of two ranks found, which do three tasks and two."""
    folder = tmp_path_factory.mktemp("ddp")
    multiprocessing.spawn(work, (2, str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def assert_all(ranks: list[dict], key: tuple[str, str], truth: dict) -> None:
    for result in ranks:
        assert_close(result[key], truth)
        for name, value in result[key].items():
            assert torch.equal(value, ranks[0][key][name])


def whole(learner, engine: str, steps=(0,)) -> dict:
    """The meta-gradient of all tasks in this process, of Σ (1 + step) loss."""
    module = MetaModule(learner, engine=engine)
    loss = sum((1 + step) * module(sinusoids(TASKS, step)).loss for step in steps)
    return gradients(module, loss)


@each_engine
@pytest.mark.parametrize("name", CASES)
def test_meta_gradients_are_those_of_the_mean_over_all_tasks(ranks, name, engine):
    case = CASES[name]
    module = MetaModule(case.make(), engine=engine)
    truth = gradients(module, module(case.episodes(TASKS)).loss)
    assert_all(ranks, (name, engine), truth)


@each_engine
def test_first_order(ranks, engine):
    truth = whole(first_order(CASES["maml"].make()), engine)
    assert_all(ranks, ("first_order", engine), truth)


@pytest.mark.parametrize("name", BY_TASK)
def test_meta_gradients_that_are_known_by_task(ranks, name):
    assert_all(ranks, (name, "functional"), whole(BY_TASK[name](), "functional"))


@each_engine
def test_a_meta_parameter_that_is_not_used(ranks, engine):
    truth = whole(with_unused(), engine)
    assert not truth.pop("unused").any()
    assert_all(ranks, ("unused", engine), truth)


@each_engine
def test_two_forwards_before_a_backward(ranks, engine):
    truth = whole(CASES["maml"].make(), engine, (0, 1))
    assert_all(ranks, ("two_forwards", engine), truth)


@each_engine
def test_accumulation_without_synchronization(ranks, engine):
    truth = whole(CASES["maml"].make(), engine, (0, 1))
    assert_all(ranks, ("accumulated", engine), truth)


@each_engine
def test_ranks_stay_equal_to_the_bit_and_train_as_one_process(ranks, engine):
    module = MetaModule(CASES["maml"].make(), engine=engine)
    outer = torch.optim.Adam(module.parameters(), lr=0.01)
    for step in range(STEPS if engine == "functional" else 10):
        outer.zero_grad()
        module(sinusoids(TASKS, step)).loss.backward()
        outer.step()
    truth = {k: p.detach() for k, p in module.theta().items()}
    for result in ranks:
        assert_close(result["trained", engine], truth, rtol=1e-7, atol=1e-8)
        for name, value in result["trained", engine].items():
            assert torch.equal(value, ranks[0]["trained", engine][name])
