"""The rule of the verdict, case by case."""

import math
import re

import pytest

from raymeta.modules.non_smooth import NonSmooth
from raymeta.outer.diagnosis import Diagnosis, Slope

#: Four hyperparameters that matter alike, along which E would fall to nothing.
FOUR = {"effective": 4.0, "steepness": 1.0}
RELU = (NonSmooth("1", "ReLU", "GELU or SiLU"), NonSmooth("3", "ReLU", "GELU or SiLU"))


def diagnosed(exact, seen, **found):
    return Diagnosis(
        task="mine",
        seed=0,
        horizon=10,
        point={"lr": 0.1},
        outer_loss=1.0,
        step=0.03,
        slopes=(Slope("gradient", exact, seen, 0.9, 1.1, rounding=1e-3),),
        hyperparameters=1,
        validation_size=None,
        gradient_evals=60.0,
        times=(0, 10),
        tangent=(0.0, 1.0),
        **{"smoothness": 1.0, "weights": 100, "adjoint": (1.0, 1.0), **found},
    )


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (diagnosed(1.0, 0.9), "trust"),
        (diagnosed(1e-4, -8e-4), "trust"),  # rounding
        (
            diagnosed(1.0, 0.5),
            "trust with care: the exact slope along the gradient is 1",
        ),
        (diagnosed(1.0, 0.5, non_smooth=RELU), "trust with care: .*for ReLU at 1, 3$"),
        (
            diagnosed(1.0, 0.3, non_smooth=RELU),
            "use search: .*put GELU or SiLU for ReLU",
        ),
        (diagnosed(1.0, 0.3), "trust with care: "),
        (diagnosed(1.0, -0.3), "use search: "),
        (diagnosed(1.0, math.inf), "use search: "),
        (diagnosed(1.0, 1.0, smoothness=0.3), r"trust with care: .*smoothness 0\.30"),
        (diagnosed(1.0, 1.0, smoothness=0.3, weights=3), "trust$"),
        (diagnosed(1.0, 1.0, adjoint=(1e6, 1.0)), "trust with care: .*shorter horizon"),
        (diagnosed(1.0, 0.01, adjoint=(1e9, 1.0)), "use search: .*shorter horizon"),
        (diagnosed(1.0, 1.0, fault="no"), "use search: no"),
    ],
)
def test_the_verdict_and_its_line(found, line):
    assert re.match(line, found.line), found.line


@pytest.mark.parametrize(
    ("found", "score"),
    [
        (diagnosed(1.0, 1.0, **FOUR), 1 + math.log(8)),
        (diagnosed(1.0, 1.0, effective=1.0, steepness=0.0), 1.0),
        (diagnosed(1.0, 0.5, **FOUR), 0.501 + math.log(8)),
        (diagnosed(1.0, 1.0, **FOUR, smoothness=0.25), 0.25 + math.log(8)),
        (diagnosed(1.0, 1.0, **FOUR, smoothness=0.2, weights=3), 1 + math.log(8)),
        (diagnosed(1.0, -1.0, **FOUR), math.log(8)),
        (diagnosed(0.0, 0.0, effective=0.0, steepness=0.0), 0.0),
        (diagnosed(1.0, 1.0, **FOUR, fault="no"), 0.0),
    ],
)
def test_the_score_is_trust_and_what_a_gradient_tells(found, score):
    assert found.score == pytest.approx(score)
    assert found.record["score"] == pytest.approx(score)
