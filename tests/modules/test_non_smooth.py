"""Layers and functions whose derivative jumps, found by class and by call."""

import torch
from torch import nn
from torch.nn import functional as F

from raymeta.modules.non_smooth import (
    NON_SMOOTH,
    NonSmoothFunctions,
    non_smooth_layers,
)


class Steep(nn.ReLU):
    """One of a user's own."""


def test_layers_are_found_with_their_paths_and_remedies():
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.GELU())
    found = non_smooth_layers(nn.Sequential(inner, Steep(), nn.Tanh()))
    assert [(n.path, n.kind) for n in found] == [("0.1", "MaxPool2d"), ("1", "ReLU")]
    assert found[0].instead == "AvgPool2d"


def test_every_class_and_every_substitute_is_torchs():
    for kind, (_, instead) in NON_SMOOTH.items():
        assert issubclass(getattr(nn, kind), nn.Module)
        for name in instead.split(" or "):
            assert issubclass(getattr(nn, name), nn.Module)


def test_functions_are_found_but_for_those_of_the_layers():
    image = torch.randn(1, 1, 6, 6)
    with NonSmoothFunctions() as functions:
        F.max_pool2d(F.gelu(image), 2)
        image.relu()
        F.hardtanh(image)
    kinds = [n.kind for n in functions.beside([])]
    assert kinds == ["max_pool2d()", "relu()", "hardtanh()"]
    layers = non_smooth_layers(nn.Sequential(nn.ReLU()))
    assert "relu()" not in [n.kind for n in functions.beside(layers)]
