"""Differentiable update rules, one a file."""

from raymeta.optim.adam import AdamMemory, adam
from raymeta.optim.base import Optimizer, Schedule, Setting
from raymeta.optim.sgd import SGDMemory, sgd

__all__ = [
    "AdamMemory",
    "Optimizer",
    "SGDMemory",
    "Schedule",
    "Setting",
    "adam",
    "sgd",
]
