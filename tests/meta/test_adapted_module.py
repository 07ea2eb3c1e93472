"""One task's adapted module: plain torch, which answers as the inner loop does."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raymeta.data import Episode, Examples
from raymeta.meta import (
    MetaModule,
    anil,
    boil,
    cavia,
    distillation,
    functa,
    imaml,
    learned_dataset,
    lslr,
    maml,
    meta_sgd,
    reptile,
)
from raymeta.optim import sgd
from tests.support.learners import images, mlp, sinusoids, siren

pytestmark = pytest.mark.usefixtures("float64")
MSE = {"loss": F.mse_loss, "steps": 2}
MAKE = {
    "maml": lambda: maml(mlp(), optimizer=sgd(0.05), **MSE),
    "batch norm": lambda: maml(mlp(1, nn.BatchNorm1d(6)), **MSE),
    "running": lambda: maml(mlp(1, nn.BatchNorm1d(6)), batch_norm="running", **MSE),
    "anil": lambda: anil(mlp(), head="2", **MSE),
    "boil": lambda: boil(mlp(), head="2", **MSE),
    "meta_sgd": lambda: meta_sgd(mlp(), **MSE),
    "lslr": lambda: lslr(mlp(), **MSE),
    "imaml": lambda: imaml(mlp(), **MSE),
    "reptile": lambda: reptile(mlp(), **MSE),
    "cavia": lambda: cavia(mlp(3), context=2, **MSE),
    "functa": lambda: functa(siren()),
}


@pytest.mark.parametrize("name", MAKE)
def test_it_has_the_loss_of_the_inner_loop(name):
    module = MetaModule(MAKE[name]())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.1)
    tasks = images(2) if name == "functa" else sinusoids(2)
    losses = module.eval()(tasks, steps=3).losses
    before = copy.deepcopy(module.state_dict())
    for i, loss in enumerate(losses):
        support, query = (Examples(*(x[i] for x in part)) for part in tasks)
        alone = module.train().adapt(support, steps=3)
        assert not alone.training
        answer = alone(query.inputs)
        assert F.mse_loss(answer, query.targets).item() == pytest.approx(
            loss.item(), rel=1e-9
        )
        assert all(p.is_leaf and p.requires_grad for p in alone.parameters())
        again = pickle.loads(pickle.dumps(alone))
        assert torch.equal(again(query.inputs), answer)
        alone.train()(query.inputs).sum().backward()  # it may be trained on
    assert all(torch.equal(x, before[k]) for k, x in module.state_dict().items())


def test_a_plain_tuple_is_enough_and_distillation_learns_from_its_images():
    tasks = sinusoids(1)
    module = MetaModule(MAKE["maml"]())
    x, y, _ = (part[0] for part in tasks.support)
    both = [
        module.adapt(given)(x) for given in ((x, y), Examples(x, y, y[:, 0] * 0 + 1))
    ]
    assert torch.equal(*both)
    net, labels = nn.Linear(4, 3), torch.arange(3)
    learner = distillation(
        net, loss=F.cross_entropy, images=torch.randn(2, 3, 4), labels=labels, lr=0.1
    )
    data = Examples(torch.randn(1, 5, 4), torch.randint(3, (1, 5)), torch.ones(1, 5))
    module = MetaModule(learner).eval()
    alone = module.adapt((data.inputs[0], data.targets[0]))
    loss = F.cross_entropy(alone(data.inputs[0]), data.targets[0])
    assert loss.item() == pytest.approx(module(Episode((), data)).loss.item())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(3, 1), r"adapts to \(inputs, targets\) or Examples .* a Tensor"),
        ((torch.ones(3, 1), torch.ones(2, 1)), r"as many targets as inputs.*\(2, 1\)"),
        ((torch.ones(0, 1), torch.ones(0, 1)), r"as many targets as inputs"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        MetaModule(MAKE["maml"]()).adapt(given)


def test_who_adapts_no_module_says_so():
    with pytest.raises(
        ValueError, match=r"needs a learner of an algorithm that adapts"
    ):
        MetaModule(learned_dataset(4)).adapt((torch.ones(2, 2), torch.ones(2)))
