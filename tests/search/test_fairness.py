"""Evidence of fairness: what is hashed, and what is said where it differs."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from search_toys import Bowl, Listed, Walk
from torch import nn
from torch.utils.data import TensorDataset

from raymeta.modules import module_problem
from raymeta.optim import sgd
from raymeta.results.validity import REMEDY, reasons_of
from raymeta.search.fairness import evidence_of, fingerprint, mismatches, spending_of
from raymeta.search.methods.gradient import HypergradientDescent
from raymeta.search.progress import evidence_lines
from raymeta.search.study.report_columns import ReportColumns
from raymeta.space import Positive, Space
from raymeta.tasks import Digits, Quadratic, Throw


@dataclass
class Linear:
    """A linear layer; each part of what it trains on can be changed alone."""

    name: str = "linear"
    horizon: int = 4
    budget: float = 100.0
    space: Space = dataclasses.field(
        default_factory=lambda: Space(lr=Positive(0.1, low=0.01, high=1.0))
    )
    weight: float = 0.0
    train: float = 0.0
    val: float = 0.0
    test: float = 0.0
    order: int = 0

    def sample(self, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(14, 3, generator=generator)
        parts = [x[:8].clone(), x[8:11].clone(), x[11:].clone()]
        for part, change in zip(parts, (self.train, self.val, self.test), strict=True):
            part[1, 2] += change
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            net = nn.Linear(3, 1)
        with torch.no_grad():
            net.weight[0, 1] += self.weight
        train, val, test = (TensorDataset(p, p[:, :1]) for p in parts)
        return module_problem(
            net,
            loss=nn.functional.mse_loss,
            train=train,
            val=val,
            test=test,
            optimizer=lambda hparams: sgd(hparams["lr"]),
            batch_size=4,
            seed=seed + self.order,
        )


@pytest.mark.parametrize(
    ("change", "differ"),
    [
        ({}, set()),
        ({"weight": 1e-6}, {"weights"}),
        ({"train": 1e-6}, {"data", "batches"}),
        ({"val": 1e-6}, {"data"}),
        ({"test": 1e-6}, {"data"}),
        ({"order": 1}, {"batches"}),
    ],
)
def test_each_part_of_a_problem_has_a_hash_of_its_own(change, differ):
    one, other = fingerprint(Linear(), 0), fingerprint(Linear(**change), 0)
    changed = {k for k in one._fields if getattr(one, k) != getattr(other, k)}
    assert changed == differ


@pytest.mark.parametrize("task", [Digits(), Throw(), Quadratic()], ids=lambda t: t.name)
def test_a_seed_is_the_same_problem_again_and_another_is_not(task):
    assert fingerprint(task, 0) == fingerprint(task, 0)
    assert fingerprint(task, 0) != fingerprint(task, 1)


class Unseeded(Linear):
    """Draws its data anew whenever it is sampled."""

    def sample(self, seed):
        return Linear(train=float(torch.rand(()))).sample(seed)


def test_one_process_finds_out_that_a_seed_is_another_problem_when_sampled_again(bench):
    done = bench(Unseeded(), HypergradientDescent("d", "reverse")).run()

    found = evidence_of(done.studies)

    unfair = ["linear, seed 0: data differ", "linear, seed 0: batches differ"]
    assert mismatches(found) == unfair
    assert len(found["linear"]["0"]["data"].split(" != ")) == 2
    assert set(done.frame()["invalid"]) == {"data and batches differ"}


def test_a_frame_charges_the_operations_of_its_gradient_evaluations(bench):
    frame = bench(Linear(), HypergradientDescent("d", "reverse"), seeds=1).run().frame()
    assert (frame.flops == 61 * frame.gradient_evals).all()
    assert frame.flops.iloc[-1] > 0


def test_every_method_tells_what_it_trained_on(bench):
    done = bench(Bowl(), (Listed((0.5, 0.4), rung=3), Walk()), seeds=(3, 1)).run()

    found = evidence_of(done.studies)

    assert set(found) == {"bowl"}
    for seed in (3, 1):
        at = found["bowl"][str(seed)]
        assert at.pop("methods") == ["listed", "walk"]
        assert at == fingerprint(Bowl(), seed)._asdict()
    assert mismatches(found) == []


def trained_on(study, **digests):
    """Let the first report of a study say something else."""
    (number, first), *others = study.reports
    first = first._replace(evidence=first.evidence | digests)
    study.reports = ReportColumns([(number, first), *others])


def test_a_method_that_trained_on_something_else_is_named(bench):
    done = bench(Bowl(), (Listed((0.5,)), Walk()), seeds=1).run()
    trained_on(done.studies[1], weights="0" * 64)

    found = evidence_of(done.studies)
    unfair = mismatches(found)

    assert unfair == ["bowl, seed 0: weights differ"]
    lines = evidence_lines(found, unfair, spending_of(done.studies), [])
    assert lines[0] == (
        "INVALID, for methods did not train on the same: bowl, seed 0: weights differ: "
        + REMEDY
    )
    frame = done.frame()
    assert set(frame["invalid"]) == {"weights differ"}
    assert reasons_of(frame) == {"bowl": ["seed 0: weights differ"]}


def test_only_the_seed_that_differs_is_marked(bench):
    methods = Listed((0.5,)), Listed((0.4,), name="b")
    done = bench(Bowl(), methods, seeds=2).run()
    assert "invalid" not in done.frame()
    trained_on(done.studies[-1], data="0" * 64, batches="1" * 64)

    frame = done.frame()

    said = frame.groupby(["task", "seed"])["invalid"].unique().map(list).to_dict()
    assert said == {
        ("bowl", 0): [""],
        ("bowl", 1): ["data and batches differ"],
    }


def test_a_problem_that_cannot_be_read_has_no_evidence_and_it_is_said(bench):
    done = bench(Bowl(), (Listed((0.5,)), Walk()), seeds=1).run()
    for study in done.studies:
        study.reports = ReportColumns(
            (n, m._replace(evidence={})) for n, m in study.reports
        )

    lines = evidence_lines(evidence_of(done.studies), [], spending_of(done.studies), [])

    assert "no evidence, for the problem could not be read: bowl, seed 0" in lines


def test_spending_is_counted_cell_by_cell(bench):
    done = bench(Bowl(), (Listed((0.5, 0.4), rung=3), Walk()), budget=31, seeds=1).run()

    listed, walk = spending_of(done.studies)

    # To the rung 3 + 1, from there 6 + 1; the second is stopped at the rung or not.
    assert listed["largest_unit"] == 7
    assert listed["tests"] == walk["tests"] == 1
    assert (walk["spent"], walk["largest_unit"], walk["budget"]) == (30, 10, 31)


def test_tuned_hyper_learning_rates_are_methods_of_their_own(bench):
    methods = (
        HypergradientDescent("slow", "reverse", 0.01),
        HypergradientDescent("fast", "reverse", 1.0),
    )
    done = bench(Linear(), methods, seeds=1).run()
    found, spending = evidence_of(done.studies), spending_of(done.studies)

    lines = evidence_lines(found, [], spending, methods)

    assert lines[-1] == (
        "a hyper learning rate of its own, and a budget of its own: slow, fast"
    )
    assert [study["budget"] for study in spending] == [100, 100]
    assert "test set: one look per task, method and seed" in lines
