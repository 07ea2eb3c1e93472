"""The best λ of a frame, as problems and as optimizers of torch take it."""

import pandas as pd
import pytest
import torch

import raymeta
from raymeta.results.schema import REPORTS
from raymeta.results.validity import InvalidComparison
from raymeta.space import Choice, Positive, Space, Unit


class Toy:
    name, horizon, budget = "toy", 3, 9.0
    space = Space(
        lr=Positive(0.1),
        beta1=Unit(0.9),
        decay=Positive(0.1, shape=(2,)),
        rule=Choice(("sgd", "adam")),
        when={"beta1": {"rule": "adam"}},
    )

    def sample(self, seed):
        raise AssertionError("nothing is trained to read a frame")


def row(method, seed, loss, lowest, status="complete", **hparams):
    """A report; what is not said is 0."""
    plain = {name: "" if kind == "str" else 0 for name, kind in REPORTS.items()}
    known = {"task": "toy", "method": method, "seed": seed, "status": status}
    losses = {"outer_loss": loss, "best_outer_loss": lowest}
    return plain | known | losses | {f"hp/{k}": x for k, x in hparams.items()}


SGD = {"lr": 0.25, "decay[0]": 1.0, "decay[1]": 2.0, "rule": "sgd"}
ADAM = {"lr": 0.5, "beta1": 0.75, "decay[0]": 3.0, "decay[1]": 4.0, "rule": "adam"}
FRAME = pd.DataFrame(
    [
        row("tpe", 0, 0.1, 0.1, "running", **SGD),  # no full run
        row("tpe", 0, 0.5, 0.5, **SGD),
        row("tpe", 0, 0.5, 0.5, "final", **SGD),
        row("long_term", 0, 0.2, 0.3, **SGD),  # a lucky point that is not returned
        row("long_term", 0, 0.3, 0.3, **ADAM),
        row("long_term", 1, 0.4, 0.4, **SGD),
        row("asha", 1, float("nan"), float("nan"), **SGD),
    ]
)


def test_the_lowest_full_run_in_every_form():
    best = raymeta.best(FRAME, Toy())
    assert (best.method, best.seed, best.outer_loss) == ("long_term", 0, 0.3)
    assert best.point == ADAM
    assert best.hparams["rule"] == "adam"
    assert torch.equal(best.hparams["decay"], torch.tensor([3.0, 4.0]))
    assert Toy.space.point(best.hparams) == ADAM
    options = best.torch_options(torch.optim.Adam)
    assert options == {"lr": 0.5, "betas": (0.75, 0.999)}
    torch.optim.Adam([torch.zeros(2)], **options)
    assert best.torch_options(torch.optim.SGD) == {"lr": 0.5}


def test_of_a_method_or_a_seed():
    assert raymeta.best(FRAME, Toy(), "tpe").point == SGD
    assert raymeta.best(FRAME, Toy(), seed=1).outer_loss == 0.4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "tpee"}, r"unknown method of the frame 'tpee': did you mean 'tpe'"),
        ({"seed": 7}, r"unknown seed of the frame 7"),
        ({"task": "quadratic"}, r"unknown task of the frame 'quadratic'.*toy"),
        ({"method": "asha"}, r"no run of .*'asha'.* ended with a finite loss"),
        (
            {"frame": pd.DataFrame({"task": ["toy"]})},
            r"needs the frame of a comparison",
        ),
        ({"frame": "results/x"}, r"needs the frame of a comparison.*'str'"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        raymeta.best(**{"frame": FRAME, "task": Toy(), **given})


def test_a_setting_for_each_group_is_not_cut_to_one():
    best = raymeta.best(FRAME, Toy())
    best.hparams["lr"] = torch.tensor([0.1, 0.2])
    with pytest.raises(ValueError, match=r"SGD takes one lr, .* parameter group"):
        best.torch_options(torch.optim.SGD)
    with pytest.raises(ValueError, match=r"LBFGS has no setting called rule"):
        type(best)("toy", "tpe", 0, 0.1, {"rule": 1}, {}).torch_options(
            torch.optim.LBFGS
        )


def test_an_invalid_comparison_warns():
    frame = FRAME.assign(invalid="methods trained on other data")
    with pytest.warns(InvalidComparison):
        raymeta.best(frame, Toy())
