"""What optimizers are shown and told; and spaces that have a last point."""

from types import SimpleNamespace

import pytest
from ray.tune.search import Searcher

from raymeta.search import to_tune
from raymeta.search.methods import METHODS, missing
from raymeta.search.tune.ask_tell import Asked, AskTell, AskTellSearcher, sides, start
from raymeta.search.tune.isolated_rng import IsolatedGlobalRNG
from raymeta.space import Choice, Positive, Space

SPACE = Space(lr=Positive(0.1, low=0.01, high=1.0), kind=Choice(["a", None, 3]))


class Noted(AskTell):
    """The start, one point, and nothing more; what it is told."""

    def __init__(self):
        self.left, self.told = [Asked("x", start(SPACE)), Asked("y", [0.25, 2])], []

    def ask(self):
        return self.left.pop(0) if self.left else None

    def tell(self, asked, loss):
        self.told.append((asked.key, loss))


def test_an_optimizer_is_asked_in_log_and_by_number_and_told_by_its_key():
    optimizer = Noted()
    searcher = AskTellSearcher(SPACE, optimizer)
    assert sides(SPACE) == [0, 3]
    assert start(SPACE) == [pytest.approx(0.5), 0]
    assert searcher.suggest("0") == SPACE.initial_point()
    second = searcher.suggest("1")
    assert second == {"lr": pytest.approx(10**-1.5), "kind": 3}
    assert searcher.suggest("2") == Searcher.FINISHED
    searcher.on_trial_complete("1", {"outer_loss": 2.0})
    searcher.on_trial_complete("0", None, error=True)
    assert optimizer.told == [("y", 2.0), ("x", None)]
    assert not searcher.asked


@pytest.mark.parametrize("name", ["smac", "blendsearch", "cqr"])
def test_a_space_of_few_points_and_failed_trials_end_no_search_with_an_error(name):
    method = METHODS[name]
    if missing(method):
        pytest.skip(f"{name} needs {', '.join(missing(method))}")
    space = Space(kind=Choice(["a", None, 3]), width=Choice([1, 2]))
    seen = []
    with IsolatedGlobalRNG(0):
        config = method.tune_config(SimpleNamespace(space=space), 0)
        searcher = config.search_alg
        searcher.set_search_properties("outer_loss", "min", to_tune(space))
        for trial in range(9):
            point = searcher.suggest(str(trial))
            if point is None or point == Searcher.FINISHED:
                break
            seen.append(tuple(point.values()))
            result = {"outer_loss": 10.0**trial, "training_iteration": 1}
            failed = trial in (0, 3)
            searcher.on_trial_complete(str(trial), None if failed else result, failed)
    assert seen[0] == ("a", 1)
    assert len(set(seen)) >= 3
