import torch

from raymeta.hypergrad.base import advance
from raymeta.tasks import CharGRU


def test_a_state_is_judged_the_same_every_time():
    task = CharGRU(length=8)
    problem, hparams = task.sample(0), task.space.initial()
    start = problem.init(hparams)
    state = advance(problem, hparams, start, 0, 3)
    with torch.no_grad():
        first = [float(problem.outer_loss(s, hparams)) for s in (start, state)]
        again = [float(problem.outer_loss(s, hparams)) for s in (state, state, start)]
    assert again == [first[1], first[1], first[0]]
    assert first[0] != first[1]


def test_any_text_will_do(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("to be or not to be, that is the question: " * 60)
    task = CharGRU(path=str(file), length=8)
    problem = task.sample(0)
    logits = problem.init(task.space.initial()).params["output.weight"]
    assert len(logits) == len(set(file.read_text()))
