"""Checks that a comparison which is resumed is still the one that began."""

from collections.abc import Mapping, Sequence

from raymeta.results.run_folder import RunFolder
from raymeta.runtime import source_code
from raymeta.search.fairness import same_values
from raymeta.search.plan import Values


def require_same_code(
    folder: RunFolder, code: Mapping[str, str], *, begun: bool
) -> None:
    """Note of what code it is; one that goes on must be of the same.

    Args:
        folder: the open folder of the comparison.
        code: the code of its tasks and methods, see `source_code.code_of`.
        begun: whether a trial has run; else what was noted is replaced.

    Raises:
        ValueError: functions or classes are not as they were.
    """
    then = folder.noted("code")
    if then is None or not begun:
        folder.note(code=source_code.recorded(code))
    elif differ := source_code.changed(then, code):
        raise ValueError(
            f"{folder.path} was started with other code, for since then "
            f"{source_code.listed(differ)} changed: use another name, or take the "
            "change back"
        )


def require_same_values(folder: RunFolder, values: Values, *, begun: bool) -> None:
    """Note what tasks compute at first; one that goes on must compute the same.

    Args:
        folder: the open folder of the comparison.
        values: the losses of `Plan.first_values`.
        begun: whether a trial has run; else what was noted is replaced.

    Raises:
        ValueError: a task does not.
    """
    then = folder.noted("first_values")
    if then is None or not begun:
        folder.note(first_values=values)
        return
    for task, now in values.items():
        if not same_values(then.get(task, []), now):
            raise ValueError(
                f"{folder.path} was started where task {task!r} had outer losses of "
                f"{_numbers(then[task])} before and after its first step, and has "
                f"{_numbers(now)} now: its data, its random numbers or a library "
                "changed: seed the data, restore what changed, or use another name"
            )


def _numbers(values: Sequence[float]) -> str:
    return " and ".join(f"{value:.6g}" for value in values[:2])
