"""Memory of a run's hypergradients: the cases measure the same derivative."""

import pytest

from jobs.benchmarks.run_memory import measure


def test_the_cases_of_twenty_steps_agree():
    checkpointed, reverse = (
        measure(f"{name}-20", 8, 1) for name in ("checkpointed", "reverse")
    )
    assert checkpointed["dE/dlr"] == pytest.approx(reverse["dE/dlr"], rel=1e-4)
    assert checkpointed["peak"] > 0
    assert checkpointed["seconds"] > 0
