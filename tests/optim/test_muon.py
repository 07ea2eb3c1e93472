"""Muon: its equations, its derivatives, and what it refuses."""

from functools import partial

import pytest
import torch

from raymeta import optim
from raymeta.testing.optimizers import OptimizerConformance, final, gradients
from raymeta.testing.problems import random_tensors


def rule(**settings):
    """With the same learning rate for what is no matrix."""
    known = {k: settings[k] for k in settings.keys() & {"lr", "weight_decay"}}
    return optim.muon(**settings, others=optim.adamw(**known, eps_root=1e-4))


class TestMuon(OptimizerConformance):
    @pytest.fixture(params=[{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw"}])
    def make(self, request):
        return partial(rule, **request.param)

    @pytest.fixture
    def settings(self):
        return {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.02}

    @pytest.fixture
    def singular_at_zero(self):
        return {"momentum"}  # exactly 0 with Nesterov's, which is no relative error


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", [None, "original", "match_rms_adamw"])
@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
def test_follows_torch_but_for_its_half_precision(nesterov, adjust, shape):
    generator = torch.Generator().manual_seed(0)
    w, *grads = (torch.randn(shape, generator=generator) for _ in range(6))
    flags = {"nesterov": nesterov, "adjust_lr_fn": adjust, "weight_decay": 0.3}
    p = torch.nn.Parameter(w.clone())
    theirs = torch.optim.Muon([p], lr=0.05, momentum=0.8, **flags)
    for g in grads:
        p.grad = g.clone()
        theirs.step()
    ours = final(
        optim.muon(0.05, momentum=0.8, **flags), {"w": w}, [{"w": g} for g in grads]
    )
    moved = (p.detach() - w).norm()
    assert (ours["w"] - p.detach()).norm() < 0.02 * moved
    assert moved > 0.2


def test_layers_may_be_left_to_the_other_rule():
    start, grads = random_tensors(0), gradients(3)
    others = optim.sgd(0.1)
    with pytest.raises(ValueError, match=r"needs a matrix among.*use another rule"):
        optim.muon(others=others, besides=("layer",)).init(start)
    start["layers.weight"] = start["layer.weight"].clone()
    grads = [{**g, "layers.weight": g["layer.weight"]} for g in grads]
    ours = final(optim.muon(others=others, besides=("layer",)), start, grads)
    plain = final(others, start, grads)
    same = {name for name, w in ours.items() if torch.equal(w, plain[name])}
    assert same == start.keys() - {"layers.weight"}
    assert list(ours) == list(start)


def test_what_is_no_matrix_needs_another_rule():
    with pytest.raises(ValueError, match=r"'layer.bias'\] are none.*give others="):
        optim.muon().init(random_tensors(0))
    with pytest.raises(ValueError, match=r"needs adjust_lr_fn='original' or .*'most'"):
        optim.muon(adjust_lr_fn="most")
    with pytest.raises(ValueError, match="needs ns_steps from 1 to 99, but got 0"):
        optim.muon(ns_steps=0)
