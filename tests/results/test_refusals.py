"""Keys in an address are told to nobody."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raymeta.cli import main
from raymeta.results.provenance import provenance
from raymeta.results.refusals import require_no_keys, without_keys

WITH_KEYS = [
    "s3://AKIAKEY:sEcReT/x@bucket/a",
    "s3://AKIAKEY:sEcReT@bucket/a?region=x",  # pragma: allowlist secret
    "s3://bucket/a?secret_key=sEcReT&region=x",
    "abfs://account:sEcReT@container/a",  # pragma: allowlist secret
    "abfs://container/a?sas_token=sEcReT",
]


@pytest.mark.parametrize("address", WITH_KEYS)
def test_keys_in_an_address_are_refused_and_not_said(address, capsys):
    with pytest.raises(ValueError, match="has no keys in it") as error:
        require_no_keys(address)
    assert "sEcReT" not in str(error.value)
    for command in (
        ["optimize", "--task", "quadratic", "--name", "x", "--storage", address],
        ["compare", "--tasks", "quadratic", "--name", "x", "--storage", address],
        ["compare", "--tasks", "quadratic", "--storage", address],
        ["train", "--storage", address],
        ["diagnose", "--name", "x", "--storage", address],
        ["report", address],
    ):
        assert main(command) == 2, command
        out = capsys.readouterr()
        assert "sEcReT" not in out.out + out.err, command
        assert "AWS_SECRET_ACCESS_KEY" in out.err


@pytest.mark.parametrize("address", WITH_KEYS)
def test_a_recorded_command_has_no_keys(address, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["raymeta", "train", f"--data={address}"])
    assert "sEcReT" not in json.dumps(provenance())


def test_addresses_without_keys_pass():
    for address in (
        "s3://bucket/a",
        "gs://anonymous@bucket",
        "s3://bucket/a?endpoint_override=http%3A%2F%2Fhost%3A9000&scheme=http",
        "/tmp/a:b@c",
    ):
        require_no_keys(address)
        assert without_keys(address) == address


def test_secrets_do_not_travel_with_a_job():
    patterns = Path(".rayignore").read_text().split()
    excluded = Path("jobs/runtime_env.yaml").read_text()
    for name in (".env*", "*.pem", "id_*", "*.key"):
        assert name in patterns
        assert f'- "{name}"' in excluded
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True)
    names = [line.rpartition("/")[2] for line in tracked.stdout.splitlines()]
    assert not [n for n in names if n.startswith((".env", "id_")) or n.endswith(".pem")]
