"""Papers' figures: which run they belong to, and the files that repeat these runs."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from raymeta.cli import config, parser
from raymeta.cli.train import TrainSettings
from raymeta.train import recipe
from raymeta.train.published import Published

PROTOCOLS = Path(__file__).parents[2] / "jobs" / "protocols"
#: Settings of a run that a recipe does not take.
PLACE = (
    *("workers", "max_workers", "gpus", "wait", "retries", "name", "storage"),
    *("tasks_per_worker", "cpus_per_worker", "resources_per_worker"),
)


def from_file(name, *flags):
    """(settings, recipe) as `raymeta train --config` makes them."""
    arguments = ["train", "--config", str(PROTOCOLS / name), *flags]
    parsed: argparse.Namespace = parser().parse_args(arguments)
    settings = config.read(parsed, TrainSettings)
    own = {k: v for k, v in asdict(settings).items() if k not in PLACE}
    own["seeds"] = tuple(range(settings.seeds))
    return settings, recipe(own.pop("algorithm"), own.pop("family"), **own)


def test_maml_on_sinusoids_as_published():
    settings, run = from_file("maml_sinusoid.toml")
    assert (run.outer_steps, run.tasks_per_step, run.outer_lr) == (70_000, 25, 1e-3)
    assert (run.knobs["inner_lr"], run.knobs["inner_steps"]) == (0.01, 1)
    assert (run.family.shots, run.family.queries) == (10, 10)
    assert (run.test_tasks, run.test_steps, run.clip_norm) == (600, 10, None)
    assert settings.seeds == 3
    (figure,) = run.published
    assert (figure.value, figure.ci95, figure.inner_steps) == (0.33, 0.02, 1)


@pytest.mark.parametrize(
    ("context", "value", "ci95"),
    [
        (1, 0.84, 0.06), (2, 0.21, 0.02), (3, 0.20, 0.02),
        (4, 0.19, 0.02), (5, 0.19, 0.02), (50, 0.19, 0.02),
    ],
)  # fmt: skip
def test_cavia_on_sinusoids_as_published(context, value, ci95):
    _, run = from_file("cavia_sinusoid.toml", "--context", str(context))
    assert (run.outer_steps, run.tasks_per_step, run.outer_lr) == (50_000, 25, 1e-3)
    assert run.knobs["inner_lr"] == 1.0
    assert (run.family.shots, run.family.queries, run.family.grid) == (10, 10, 100)
    assert run.test_tasks == 1_000
    source = "Zintgraf et al. 2019, table 1"
    assert run.published == (Published(value, ci95, 1, 50_000, source),)


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (("cavia", "sinusoid"), {"context": 7}),
        (("cavia", "sinusoid"), {"inner_lr": 0.1}),
        (("cavia", "sinusoid"), {"shots": 5}),
        (("maml", "sinusoid"), {"inner_steps": 5}),
        (("fomaml", "sinusoid"), {}),
        (("maml", "few-shot-digits"), {}),
    ],
)
def test_other_runs_have_no_published_figure(arguments, changes):
    assert recipe(*arguments, **changes).published == ()


def test_the_record_of_a_run_has_its_published_figures(here, tmp_path):
    figure = Published(1.4, 0.2, 1, 5_000, "Someone 2019, table 1")
    here(published=(figure,))
    record = json.loads((tmp_path / "x" / "training.json").read_text())
    assert record["published"] == [figure._asdict()]
    assert record["finished"]["outer_steps"] == 12
