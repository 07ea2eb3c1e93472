"""The command line: parsing, errors in one line, exit codes."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from raymeta.cli import config, main, parser
from raymeta.cli.compare import CompareSettings
from raymeta.cli.settings import flags
from raymeta.cli.train import TrainSettings
from raymeta.optim import load_schedule
from raymeta.results.run_folder import RunFolder
from raymeta.runtime import progress


def test_help_names_every_flag_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        main(["compare", "--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag in ("--tasks", "--methods", "--budget", "--seeds", "--name", "--storage"):
        assert flag in text
    assert "(default: digits)" in text
    assert "(default: 3)" in text


def test_the_help_of_train_names_every_setting(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in TrainSettings.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in text
    for default in ("maml", "sinusoid", "2", "100", "results"):
        assert f"(default: {default})" in text


def test_optimize_writes_a_frame_and_the_loss_curves(tmp_path, capsys):
    assert main(["optimize", "--storage", str(tmp_path), "--hyper-lr", "0.3"]) == 0
    folder = tmp_path / "optimize"
    frame = pd.read_parquet(folder / "frame.parquet")
    assert frame["best_outer_loss"].iloc[-1] < 1e-5
    assert (folder / "loss_curves.png").stat().st_size > 10_000
    assert (folder / "loss_curves.svg").exists()
    assert "lr = " in capsys.readouterr().out
    (run,) = json.loads((folder / "optimization.json").read_text())["runs"]
    assert run["command"] == sys.argv
    assert sum(steps for steps, _ in load_schedule(folder / "schedule.json")) == 20


def test_optimize_overwrites_its_own_results_only(tmp_path, capsys):
    flags = ["optimize", "--storage", str(tmp_path), "--budget"]
    assert main([*flags, "400"]) == 0
    before = len(pd.read_parquet(tmp_path / "optimize" / "frame.parquet"))
    assert main([*flags, "200"]) == 0
    assert len(pd.read_parquet(tmp_path / "optimize" / "frame.parquet")) < before
    with RunFolder.open(tmp_path, "optimize", "optimization", {}, resume=False):
        assert main([*flags, "200"]) == 2
    assert "one process at a time runs an optimization" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert main([*flags, "200", "--name", "mine"]) == 2
    assert (
        "holds something else, and no optimization.json: use another"
        in capsys.readouterr().err
    )


def test_optimize_says_where_it_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_S", 0.0)
    monkeypatch.setattr(progress, "REDRAW_S", 1e6)  # reports alone make it speak
    assert main(["optimize", "--storage", str(tmp_path), "--budget", "400"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("raymeta diagnose --task quadratic): trust")
    assert lines[1] == "quadratic by Auto, 400 gradient evaluations"
    shown = [re.fullmatch(SHOWN, line) for line in lines]
    shares = [int(match["share"]) for match in shown if match]
    assert len(shares) == len(pd.read_parquet(tmp_path / "optimize/frame.parquet")) - 1
    assert shares == sorted(shares)
    assert shares[-1] > 80


#: One line of live progress.
SHOWN = (
    r"0:\d\d +(?P<share>\d+)% of the budget, outer loss \S+ at step \d+, "
    r"best of a full run (?P<best>\S+)"
)


def test_ctrl_c_keeps_what_optimize_found(tmp_path, capsys, monkeypatch):
    calls = itertools.count()

    def update(self, lines_of):
        if next(calls) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "update", update)
    monkeypatch.setattr(progress, "REDRAW_S", 1e6)
    assert main(["optimize", "--storage", str(tmp_path)]) == 130
    path = tmp_path / "optimize" / "frame.parquet"
    frame = pd.read_parquet(path)
    assert len(frame) == 7 + 1
    assert frame["status"].iloc[-1] == "final"
    printed = capsys.readouterr()
    assert "best outer loss" in printed.out
    assert f"interrupted: what was found is in {path}" in printed.err


def test_a_real_ctrl_c_ends_optimize_with_what_it_found(tmp_path):
    """SIGINT to a process of its own, while it computes, after its first full run."""
    arguments = ["optimize", "--storage", str(tmp_path), "--budget", "1e7"]
    program = (
        "import sys; from raymeta import cli; from raymeta.runtime import progress; "
        "progress.LOG_S = 0.0; "
        f"sys.exit(cli.main({arguments}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    shown = (re.fullmatch(SHOWN, line.rstrip()) for line in process.stdout)
    assert any(match and match["best"] != "inf" for match in shown)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    path = tmp_path / "optimize" / "frame.parquet"
    assert err == f"\nraymeta: interrupted: what was found is in {path}\n"
    frame = pd.read_parquet(path)
    *running, final = frame["status"]
    assert final == "final"
    assert "complete" in running
    complete = frame["outer_loss"][frame["status"] == "complete"]
    assert frame["outer_loss"].iloc[-1] == complete.min()
    assert f"best outer loss {complete.min():.6g} at" in out
    schedule = json.loads((path.parent / "schedule.json").read_text())
    assert schedule


def test_report_computes_a_surface_and_writes_a_page(tmp_path, capsys):
    folder = tmp_path / "optimize"
    assert main(["optimize", "--storage", str(tmp_path), "--budget", "400"]) == 0
    surface = ["--surface", "lr", "momentum", "--points", "3"]
    assert main(["report", str(folder), *surface]) == 0
    rows = pd.read_parquet(folder / "surface.parquet")
    assert len(rows) == 9 * 21
    assert set(pd.read_parquet(folder / "curves.parquet")["method"]) == {"Auto"}
    page = (folder / "report.html").read_text()
    assert "charged to no method" in page
    out = capsys.readouterr().out
    assert "runs, not charged" in out
    assert "learning_quadratic.gif" in out
    assert main(["report", str(folder), "--surface", "lr", "decay"]) == 2
    assert "needs a task with both lr and decay" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimize", "--task", "digts"], "unknown task 'digts': did you mean"),
        (["optimize", "--estimator", "revers"], "did you mean 'reverse'"),
        (["optimize", "--budget", "3"], "a finite budget of at least 21"),
        (["optimize", "--hyper-lr", "-1"], "needs hyper_lr > 0, but got -1.0"),
        (["optimize", "--config", "nowhere.toml"], "nowhere.toml cannot be read"),
        (["compare", "--tasks", "digts"], "did you mean 'digits'"),
        (["compare", "--methods", "tpee"], "did you mean 'tpe'"),
        (["compare", "--budget", "0.5"], "a budget must cover a full training run"),
        (["compare", "--seeds", "0"], "needs some seeds, but got none"),
        (["report", "nowhere"], "nowhere"),
        (["train", "--algorithm", "mamll"], "unknown algorithm 'mamll'"),
        (["train", "--family", "sinusoids"], "unknown family 'sinusoids'"),
        (["train", "--workers", "0"], "needs workers >= 1, but got workers=0"),
        (["train", "--workers", "2", "--gpus", "3"], "got gpus=3 for workers=2"),
        (["train", "--resources-per-worker", "x"], "NAME=NUMBER, as in special=1, but"),
        (["train", "--cpus-per-worker", "-1"], "must be numbers >= 0, but got CPU=-1"),
        (["train", "--seeds", "0"], "--seeds must be 1 or more, but got 0"),
        (["train", "--engine", "lower"], "unknown engine 'lower'"),
        (["train", "--family", "omniglot", "--data", "nowhere"], "nowhere"),
        (
            ["train", "--tasks-per-step", "4", "--tasks-per-worker", "2"],
            "give --tasks-per-step or --tasks-per-worker, but got both: 4 and 2",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("raymeta: error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.touch()
    for command in ("optimize", "compare"):
        assert main([command, "--storage", str(blocked)]) == 2
        assert str(blocked) in capsys.readouterr().err


def test_settings_come_from_the_file_and_flags_win(tmp_path, capsys):
    file = tmp_path / "settings.toml"
    file.write_text(f'task = "quadratic"\nhyper_lr = 0.3\nstorage = "{tmp_path}"\n')
    assert main(["optimize", "--config", str(file), "--name", "flag"]) == 0
    assert (tmp_path / "flag" / "frame.parquet").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hyper_rl = 0.3", "did you mean 'hyper_lr'"),
        ('hyper_lr = "fast"', "'hyper_lr' needs float, but got 'fast'"),
        ("seed = [1, 2]", r"'seed' needs int, but got \[1, 2\]"),
        ("seed = = 1", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_named_with_the_field(text, message, tmp_path, capsys):
    file = tmp_path / "settings.toml"
    file.write_text(text)
    assert main(["optimize", "--config", str(file)]) == 2
    error = capsys.readouterr().err
    assert message.replace("\\", "") in error
    assert "settings.toml" in error


def test_flags_reproduce_the_settings(monkeypatch):
    settings = CompareSettings(tasks=("a", "b"), seeds=5, budget=10.0, at_once=4)
    monkeypatch.setattr(sys, "argv", ["bin/raymeta"])
    line = flags("compare", settings, name="x")
    assert line == [
        "compare", "--tasks", "a", "b", "--budget", "10.0", "--seeds", "5",
        "--name", "x", "--storage", "results", "--at-once", "4",
        "--workers-per-trial", "1",
    ]  # fmt: skip
    assert config.read(parser().parse_args(line), CompareSettings) == replace(
        settings, name="x"
    )


@pytest.mark.parametrize(
    ("program", "start"),
    [
        ("bin/raymeta", ["train"]),
        ("jobs/meta_train.py", []),
        ("raymeta/cli/__main__.py", ["train"]),
    ],
)
def test_flags_of_a_job_do_not_name_its_command(program, start, monkeypatch):
    settings = TrainSettings(workers=3, compile=True, inner_lr=0.5)
    monkeypatch.setattr(sys, "argv", [program])
    line = flags("train", settings, name="x")
    assert line[: len(start) + 1] == [*start, "--algorithm"]
    assert "--compile" in line
    read = config.read(
        parser().parse_args(["train", *line[len(start) :]]), TrainSettings
    )
    assert read == replace(settings, name="x")


def test_list_names_tasks_methods_and_estimators(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in (
        "digits-global",
        "quadratic",
        "asha",
        "long_term",
        "forward_online",
        "cavia",
    ):
        assert name in out


def test_list_says_what_methods_do_and_what_they_lack(capsys, monkeypatch):
    monkeypatch.setattr(
        "raymeta.search.methods.missing",
        lambda method: ("cmaes>=0.10",) if method.name == "cmaes" else (),
    )
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (cmaes,) = [line for line in lines if line.startswith("  cmaes ")]
    (pbt,) = [line for line in lines if line.startswith("  pbt ")]
    assert cmaes.endswith("(missing: pip install 'cmaes>=0.10')")
    assert "black-box" in pbt
    assert "whose poor members copy good ones" in pbt
    assert pbt.endswith("(available)")


def test_a_reader_that_has_seen_enough_is_no_error():
    code = (
        "import sys; from raymeta.cli import exit_code; "
        "sys.exit(exit_code(lambda: print('row\\n' * 99_999)))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()  # before anything is written
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


def test_importing_raymeta_imports_neither_ray_nor_pandas_nor_matplotlib():
    code = (
        "import sys, raymeta; "
        "print([m for m in ('ray', 'pandas', 'matplotlib', 'optuna', 'sklearn') "
        "if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
