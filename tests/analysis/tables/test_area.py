import numpy as np
import pandas as pd
import pytest

from raymeta.analysis import area_under_curve

NAN = np.nan


def areas(rows, **options):
    return area_under_curve(pd.DataFrame(rows), **options).set_index("method")["area"]


def test_areas_against_numbers_worked_out_by_hand(report):
    rows = [
        report("tpe", 0, 10, 1.0),
        report("tpe", 0, 50, 0.4),
        report("forward", 0, 20, 0.6),
        report("forward", 0, 60, 0.2),
        report("random", 0, 100, NAN),
    ]
    # f_min .2, f_max 1, B 100; random never has a value
    found = areas(rows)
    assert found["tpe"] == pytest.approx((50 * 1 + 50 * 0.25) / 100)
    assert found["forward"] == pytest.approx((20 * 1 + 40 * 0.5 + 40 * 0) / 100)
    assert found["random"] == 1
    seconds = areas(rows, x="wall_s")  # evaluations over ten: the same shape
    assert seconds.to_dict() == pytest.approx(found.to_dict())


def test_the_logarithmic_area_sees_every_decade_alike(report):
    steps = enumerate([1.0, 1e-1, 1e-2, 1e-3, 1e-4])
    rows = [report("tpe", 0, 20 * (i + 1), loss) for i, loss in steps]
    heights = [1, 1, 0.75, 0.5, 0.25]
    assert areas(rows, log=True)["tpe"] == pytest.approx(np.mean(heights))
    assert areas(rows)["tpe"] == pytest.approx(0.2 * (1 + 1 + 0.111), abs=1e-3)


def test_areas_do_not_change_with_the_scale_of_the_loss_or_of_the_cost(frame):
    scaled = frame.assign(
        best_outer_loss=7 * frame["best_outer_loss"] - 3,
        gradient_evals=5 * frame["gradient_evals"],
    )
    expected = area_under_curve(frame)["area"]
    assert area_under_curve(scaled)["area"].tolist() == pytest.approx(list(expected))


def test_one_value_alone_has_no_area(report):
    assert np.isnan(areas([report("tpe", 0, 10, 1.0)])["tpe"])
    assert (
        len(area_under_curve(pd.DataFrame([report("tpe", 0, 10, 1.0)]).iloc[:0])) == 0
    )


def test_a_logarithm_needs_positive_losses(report):
    with pytest.raises(ValueError, match="needs positive losses, but got 0"):
        areas([report("tpe", 0, 10, 0.0)], log=True)
