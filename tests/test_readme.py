"""The README's code runs as it stands, and its commands and names exist."""

import re
from pathlib import Path

import pytest
import torch

from raymeta.cli import parser
from raymeta.hypergrad.registry import ESTIMATORS
from raymeta.tasks import names

README = (Path(__file__).parent.parent / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_library_example_runs_and_learns(capsys):
    torch.manual_seed(0)
    scope: dict = {}
    for block in BLOCKS:
        exec(block, scope)
    assert set(scope["result"].grads) == {"lr", "decay"}
    assert scope["found"].outer_loss < float(scope["result"].outer_loss)


def test_the_library_example_has_about_twenty_lines():
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert len(lines) <= 22


def test_its_pictures_are_there():
    for picture in re.findall(r"!\[[^]]*]\(([^)]+)\)", README):
        assert (Path(__file__).parent.parent / picture).exists()


def test_every_task_and_estimator_is_named():
    for name in (*names(), *ESTIMATORS):
        assert f"`{name}`" in README


COMMANDS = re.findall(r"raymeta ((?:compare|optimize|report)\b[^`\n]*)", README)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_line_parses(command):
    arguments = [*command.split(), *(["folder"] if command == "report" else [])]
    if "--help" not in arguments:
        assert callable(parser().parse_args(arguments).run)
