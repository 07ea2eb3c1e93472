"""The benchmark of validation in passes: the same numbers as in one."""

import pytest

from jobs.benchmarks.validation_memory import FEW, estimate, write_images


def test_passes_have_the_numbers_of_one(tmp_path) -> None:
    path = tmp_path / "images"
    write_images(path, FEW)
    one, passes = (estimate(path, 90, size) for size in (None, 40))
    for key in ("E", "dE/dlr"):
        assert passes[key] == pytest.approx(one[key], rel=1e-4)
    assert passes["peak"] > 0.1
