"""`raymeta diagnose`: table, verdict in the last line, record and figure."""

import json

from raymeta.cli import main


def test_the_verdict_is_the_last_line_and_the_record_is_beside_the_figure(
    tmp_path, capsys
):
    assert main(["diagnose", "--storage", str(tmp_path), "--task", "quadratic"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("raymeta: quadratic at its start, for ")
    assert lines[-1] == "trust"
    folder = tmp_path / "diagnose"
    record = json.loads((folder / "diagnosis.json").read_text())
    assert record["task"] == "quadratic"
    assert record["found"]["verdict"] == "trust"
    assert (folder / "diagnosis.png").stat().st_size > 10_000
    assert (folder / "diagnosis.svg").exists()


def test_json_is_all_that_is_printed(tmp_path, capsys):
    flags = ["diagnose", "--storage", str(tmp_path), "--json", "--step", "0.01"]
    assert main(flags) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 0.01
    assert found["line"] == "trust"
