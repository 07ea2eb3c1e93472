"""A few cases of every surface of jobs.experiments.fuzz, the same each time."""

import pytest
from hypothesis import strategies as st

from jobs.experiments import fuzz
from jobs.experiments.fuzzing import readers
from jobs.experiments.fuzzing.surface import Surface, exit_of, refusal


@pytest.fixture(scope="module", autouse=True)
def _folders():
    yield
    readers.clear()


@pytest.mark.parametrize("name", fuzz.SURFACES)
def test_what_strangers_give_is_taken_or_refused_in_one_line(name):
    slow = name.startswith(("train", "runs", "problems", "diagnose", "compare"))
    with fuzz.aside():
        found = fuzz.fuzzed(name, 4 if slow else 20, derandomize=True)
    assert found.wrong == {}
    assert found.cases > 0


def test_each_kind_of_failure_is_found_once_with_its_smallest_case(monkeypatch):
    def wrong(number):
        def call():
            if number > 9:
                raise KeyError(number)
            if number < -9:
                raise ValueError("two\nlines")

        return refusal(call)[1]

    surface = Surface("numbers", st.integers(-99, 99), wrong)
    monkeypatch.setitem(fuzz.SURFACES, "numbers", surface)
    found = fuzz.fuzzed("numbers", 100, derandomize=True)
    assert len(found.wrong) == 2
    assert any(case.endswith("<- 10") for case in found.wrong.values())
    assert any(case.endswith("<- -10") for case in found.wrong.values())


def test_a_command_ends_with_one_line_and_code_2_or_done():
    assert exit_of(lambda: 0) == ""
    assert exit_of(lambda: 2).startswith("0 lines of error")
    assert exit_of(lambda: 3) == "exit code 3"
    assert exit_of(lambda: {}["x"]).startswith("KeyError at test_fuzz.py")


def test_what_hangs_is_ended(monkeypatch):
    monkeypatch.setattr("jobs.experiments.fuzzing.surface.HANGS_S", 0.2)

    def hang():
        while True:
            pass

    assert "no end by SIGPROF" in refusal(hang)[1]
