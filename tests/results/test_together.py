"""Comparisons of several folders in one."""

import json

import pandas as pd
import pytest

from raymeta.analysis.report.record import read_settings
from raymeta.analysis.tables.frames import read
from raymeta.results import schema
from raymeta.results.run_folder import write_json
from raymeta.results.together import put_together

DIGESTS = {"weights": "1", "data": "2", "batches": "3"}


@pytest.fixture
def comparison(tmp_path):
    """A folder with the frame and records of a comparison."""

    def build(name, method="random", seeds=(0, 1), version="2.60.0", data="2", **task):
        folder = tmp_path / name
        folder.mkdir()
        rows = [
            {
                **dict.fromkeys(schema.REPORTS, 0.0),
                "task": "bowl", "method": method, "seed": seed, "trial": trial,
                "family": "black-box", "status": "final" if trial else "complete",
                "failure": "", "outer_step": 1, "inner_steps": 9, "parent": trial,
                "gradient_evals": 10.0 * (1 + trial), "outer_loss": 0.5,
                "best_outer_loss": 0.5, "test_loss": 0.4, "hp/lr": 0.1,
            }
            for seed in seeds for trial in (0, 1)
        ]  # fmt: skip
        pd.DataFrame(rows).to_parquet(folder / "frame.parquet", index=False)
        about = {"horizon": 9, "space": "Space(lr=Positive(0.1))", "settings": "B()"}
        record = {
            schema.KEY: schema.VERSION,
            "tasks": {"bowl": about | task},
            "methods": {method: f"{method}()"},
            "seeds": list(seeds),
            "budgets": {"bowl": 20.0},
            "at_once": 1,
            "runs": [{"versions": {"ray": version}, "command": ["x"], "machine": {}}],
        }
        evidence = {
            "bowl": {
                str(s): {**DIGESTS, "data": data, "methods": [method]} for s in seeds
            }
        }
        write_json(record, folder / "comparison.json")
        (folder / "evidence.json").write_text(json.dumps(evidence))
        return folder

    return build


def test_two_folders_are_one_and_nothing_of_them_changes(comparison, tmp_path):
    one, other = comparison("a"), comparison("b", "tpe", seeds=(1, 2))
    before = [f.read_bytes() for d in (one, other) for f in sorted(d.iterdir())]

    both = put_together([one, other])

    assert both == tmp_path / "a+b"
    frame = read(both)
    studies = set(frame[["method", "seed"]].itertuples(index=False, name=None))
    assert studies == {("random", 0), ("random", 1), ("tpe", 1), ("tpe", 2)}
    record = read_settings(both)
    assert list(record["methods"]) == ["tpe", "random"]
    assert record["seeds"] == [0, 1, 2]
    evidence = json.loads((both / "evidence.json").read_text())
    assert evidence["bowl"]["1"]["methods"] == ["random", "tpe"]
    after = [f.read_bytes() for d in (one, other) for f in sorted(d.iterdir())]
    assert before == after
    assert len(read(put_together([one, other]))) == len(frame)
    assert len(read(put_together([one, one.parent / "b", one]))) == len(frame)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"horizon": 5}, "the horizon of task 'bowl' is 9 in the first and 5 in the"),
        ({"space": "S"}, "the space of task 'bowl' is Space"),
        ({"version": "2.55.1"}, "the version of ray is 2.60.0 in the first and 2.55.1"),
        ({"data": "9"}, "for data of bowl, seed 0, differ: report each alone"),
    ],
)
def test_what_did_not_train_on_the_same_is_refused(comparison, tmp_path, change, match):
    with pytest.raises(ValueError, match=match) as error:
        put_together([comparison("a"), comparison("b", "tpe", **change)])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a+b").exists()


def test_what_is_no_comparison_is_refused_and_left_alone(comparison, tmp_path):
    one, other = comparison("a"), comparison("b")
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match=r"c has no comparison\.json: report it alone"):
        put_together([one, tmp_path / "c"])
    (other / "frame.parquet").unlink()
    with pytest.raises(ValueError, match=r"b/frame\.parquet does not exist: run it"):
        put_together([one, other])
    third = comparison("d")
    (tmp_path / "a+d").mkdir()
    with pytest.raises(ValueError, match="holds something else: rename it"):
        put_together([one, third])
