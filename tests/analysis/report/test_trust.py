"""The report's table of what slopes and values say of each other."""

import pandas as pd

from raymeta.analysis.report.trust import trust_columns

NAN = float("nan")


def test_a_row_says_the_last_of_each_seed_and_how_sharp_it_is(report, final):
    rows = []
    for seed, uphill in ((0, 1.05), (1, 2.0)):
        said = {"agreement": 0.5 + seed, "roughness": 0.2, "rejected": 0.5}
        rows += [
            report("forward", seed, 50, 3.0, agreement=NAN, offset=NAN),
            report("forward", seed, 100, 1.0, agreement=9.0, offset=NAN),
            report("forward", seed, 110, 1.0, outer_loss=1.01, offset=-0.03, **said),
            report("forward", seed, 120, 1.0, outer_loss=uphill, offset=0.03, **said),
            final("forward", seed, 120, 1.0, 1.0, 0.5, offset=NAN),
            report("random", seed, 50, 3.0, agreement=NAN, offset=NAN),
        ]
    columns = trust_columns(pd.DataFrame(rows))
    assert {name: cells for name, (cells,) in columns.items()} == {
        "task": "digits",
        "method": "forward",
        "agreement": "1.000",
        "roughness": "0.2000",
        "rejected": "50%",
        "beside": "0.5250",
        "sharp": "1 of 2",
    }


def test_frames_without_slopes_have_no_table(frame):
    assert trust_columns(frame) == {}
    assert trust_columns(frame.assign(agreement=NAN)) == {}
