"""Flags of what is said: --json, --quiet, --verbose, --version, completion."""

import json
import math
import os
import subprocess

import pytest

import raymeta
from raymeta.cli import main, output
from raymeta.runtime import ray_session


def test_json_is_all_of_standard_output(tmp_path, capsys):
    flags = ["optimize", "--budget", "300", "--storage", str(tmp_path)]
    assert main([*flags, "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["outer_loss"] <= found["start_loss"]
    assert set(found["hparams"]) == {"lr", "momentum"}
    assert "quadratic at first look" in said.err
    assert main(["report", str(tmp_path / "optimize"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["ranking"]
    assert row["best_outer_loss"] == pytest.approx(found["outer_loss"])
    assert main([*flags, "--quiet"]) == 0
    said = capsys.readouterr()
    assert "at first look" not in said.out + said.err
    assert "best outer loss" in said.out


def test_list_as_json_has_what_list_prints(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [each["name"] for kind in found.values() for each in kind]
    assert {"digits", "tpe", "reverse", "maml"} <= set(names)
    assert all(f"  {name}" in text for name in names)


def test_numbers_that_json_does_not_have_are_null(capsys):
    output.print_json({"a": [math.nan, math.inf, 1.5], 3: None, "b": (True, "x")})
    found = json.loads(capsys.readouterr().out)
    assert found == {"a": [None, None, 1.5], "3": None, "b": [True, "x"]}


@pytest.mark.parametrize("command", ["compare", "optimize", "train"])
def test_a_dry_run_says_what_would_be_and_writes_nothing(command, tmp_path, capsys):
    task = {"compare": "--tasks", "optimize": "--task"}.get(command)
    flags = [command, "--storage", str(tmp_path), "--name", "x", "--dry-run"]
    flags += [task, "quadratic", "--budget", "500"] if task else ["--outer-steps", "30"]
    assert main([*flags, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seconds"] > 0
    assert found["settings"]["storage"] == str(tmp_path)
    if command == "compare":
        assert len(found["studies"]) == 24
        random = next(s for s in found["studies"] if s["method"] == "random")
        assert random["budget"] == 500
        assert 500 / 24 < random["trials"] <= 500 / 20
        assert found["budget"] == 24 * 500
    elif command == "optimize":
        assert found["budget"] == 500
    else:
        assert found["budget"] == 30 * 25
    assert main(flags) == 0
    assert capsys.readouterr().out.endswith("nothing was started or written\n")
    assert not list(tmp_path.iterdir())


def test_bad_input_of_a_dry_run_is_one_line(capsys):
    assert main(["compare", "--dry-run", "--tasks", "digitss"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("raymeta: error: unknown task 'digitss'")
    assert said.err.count("\n") == 1


def test_version_and_exit_codes_are_said(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out.startswith(f"raymeta {raymeta.__version__} (torch ")
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "130  Ctrl-C" in capsys.readouterr().out


def test_bash_completes_commands_and_flags(tmp_path, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--print-completion", "bash"])
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    ask = (
        f"source {script}; COMP_WORDS=(raymeta {{}}); COMP_CWORD={{}}; "
        '_shtab_raymeta 2>/dev/null; echo "${{COMPREPLY[@]}}"'
    )
    for words, place, expected in (
        ("di", 1, "diagnose"),
        ("compare --dry", 2, "--dry-run"),
    ):
        ran = subprocess.run(
            ["bash", "-c", ask.format(words, place)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert ran.stdout.split() == [expected]


def test_verbose_is_for_the_command_alone():
    arguments = type("Given", (), {"quiet": False, "verbose": True})
    before = os.environ.get(output.VERBOSE)
    with output.progress(arguments, as_json=False):
        assert ray_session.verbose()
    assert os.environ.get(output.VERBOSE) == before
    assert not ray_session.verbose()
