"""Arguments that an algorithm does not have, and values that no option can have."""

import pytest
import torch
from torch.nn import functional as F

from raymeta import meta
from raymeta.data import Episode
from raymeta.train import recipe
from tests.support.learners import mlp, sinusoids, siren

ALGORITHMS = {
    "maml": (mlp, {}),
    "fomaml": (mlp, {}),
    "anil": (mlp, {"head": "2"}),
    "boil": (mlp, {"head": "2"}),
    "protonet": (mlp, {"ways": 3}),
    "meta_sgd": (mlp, {}),
    "lslr": (mlp, {}),
    "cavia": (mlp, {"context": 2}),
    "functa": (siren, {}),
    "imaml": (mlp, {}),
    "reptile": (mlp, {}),
    "distillation": (
        mlp,
        {"images": torch.zeros(1, 2, 1), "labels": torch.zeros(2, dtype=torch.int64)},
    ),
}
each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def made(name: str, **others):
    module, own = ALGORITHMS[name]
    return getattr(meta, name)(module(), loss=F.mse_loss, **own, **others)


@each_algorithm
def test_an_unknown_argument_is_refused(name):
    with pytest.raises(
        ValueError, match=f"unknown argument of {name} 'nonsense': avail"
    ):
        made(name, nonsense=3)


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("maml", "inner_steps", "steps"),
        ("fomaml", "optimiser", "optimizer"),
        ("meta_sgd", "inner_lr", "lr"),
        ("lslr", "learning_lr", "lr"),
        ("cavia", "contexts", "context"),
        ("reptile", "batchsize", "batch_size"),
        ("imaml", "strenght", "strength"),
        ("maml", "metric", "metrics"),
    ],
)
def test_what_may_be_meant_is_said(name, given, meant):
    with pytest.raises(
        ValueError, match=rf"^.* {given!r}: did you mean {meant!r}\? .*$"
    ):
        made(name, **{given: 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": F.l1_loss}, "metrics must be functions .* by name, but got <func"),
        ({"metrics": {"error": 0.1}}, r"by name, but got \{'error': 0.1\}: give, for"),
        ({"metrics": ["error"]}, r"by name, but got \['error'\]"),
        ({"seed": 0.5}, "a seed must be an integer, but got seed=0.5"),
        ({"batch_norm": "btach"}, "batch_norm must be 'running', .* but got 'btach'"),
    ],
)
@each_algorithm
def test_options_have_values_that_make_sense(name, options, message):
    with pytest.raises(ValueError, match=message):
        made(name, **options)


@each_algorithm
def test_a_loss_is_a_function(name):
    module, own = ALGORITHMS[name]
    with pytest.raises(ValueError, match=r"loss must be a function .* but got a str"):
        getattr(meta, name)(module(), loss="mse", **own)


def test_functa_takes_any_module_that_says_how_long_its_latent_is():
    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.latent = torch.nn.Linear(1, 3), 3

        def forward(self, x, latent):
            return (self.layer(x) * latent).sum(-1, keepdim=True)

    module = meta.MetaModule(meta.functa(Shifted()))
    assert module(sinusoids()).losses.isfinite().all()
    with pytest.raises(ValueError, match=r"latent .* but Sequential has none"):
        meta.functa(mlp())


@pytest.mark.parametrize("learner", [mlp(), None, meta.maml])
def test_what_is_no_learner_is_refused(learner):
    with pytest.raises(ValueError, match=r"must be a Learner, but got .*: give what"):
        meta.MetaModule(learner)


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (torch.zeros(2, 3, 1), "tasks must be an Episode, but got a Tensor: give"),
        ((torch.zeros(2, 3, 1),) * 2, "tasks must be an Episode, but got a tuple: giv"),
        (
            Episode((torch.zeros(2, 3, 1),) * 2, (torch.zeros(2, 3, 1),) * 2),
            "of labelled examples, but their query is a tuple: give raymeta.data.Ex",
        ),
        (
            sinusoids()._replace(support=torch.zeros(4, 3, 1)),
            "of labelled examples, but their support is a Tensor: give raymeta.data",
        ),
    ],
)
@pytest.mark.parametrize("engine", ["functional", "higher"])
def test_what_is_no_task_is_refused(episodes, message, engine):
    module = meta.MetaModule(made("maml"), engine=engine)
    with pytest.raises(ValueError, match=message):
        module(episodes)
    if isinstance(episodes, Episode):
        with pytest.raises(ValueError, match=message):
            module.adapt(episodes)


def test_recipes_know_their_settings():
    with pytest.raises(ValueError, match="recipe 'outer_step': did you mean 'outer_st"):
        recipe("maml", "sinusoid", outer_step=5)
    with pytest.raises(ValueError, match="setting of a recipe 'learner'"):
        recipe("maml", "sinusoid", learner=None)
