"""Conformance suites for what packages of others offer to raymeta.

Each is a class of tests for pytest. Subclass it, give the fixtures that its docstring
names, and inherit the tests:

    from raymeta import tasks
    from raymeta.testing.tasks import TaskConformance

    class TestMyTask(TaskConformance):
        @pytest.fixture
        def task(self):
            return tasks.get("my-task")

A fixture with `params` runs the suite for each of several. `raymeta.testing.truth` has
what derivatives and costs are compared with.
"""

import pytest

pytest.register_assert_rewrite(
    *(
        f"{__name__}.{suite}"
        for suite in ("estimators", "methods", "modules", "optimizers", "tasks")
    )
)
