"""Differentiable update rules, one a file, and their settings."""

from raymeta.optim.adadelta import AdadeltaMemory, adadelta
from raymeta.optim.adagrad import AdagradMemory, adagrad
from raymeta.optim.adam import AdamMemory, adam
from raymeta.optim.adamw import adamw
from raymeta.optim.base import HeavyBall, Memory, Optimizer, tensorwise
from raymeta.optim.clip import clip_by_norm, clip_by_value
from raymeta.optim.export import (
    LearnedSchedule,
    export_schedule,
    load_schedule,
    replay_with_torch,
)
from raymeta.optim.first_order import first_order
from raymeta.optim.from_torch import from_torch
from raymeta.optim.lion import LionMemory, lion
from raymeta.optim.muon import MuonMemory, muon
from raymeta.optim.nadam import NAdamMemory, nadam
from raymeta.optim.radam import RAdamMemory, radam
from raymeta.optim.rmsprop import RMSpropMemory, rmsprop
from raymeta.optim.settings import Schedule, Setting, Settings
from raymeta.optim.sgd import SGDMemory, sgd

__all__ = [
    "AdadeltaMemory",
    "AdagradMemory",
    "AdamMemory",
    "HeavyBall",
    "LearnedSchedule",
    "LionMemory",
    "Memory",
    "MuonMemory",
    "NAdamMemory",
    "Optimizer",
    "RAdamMemory",
    "RMSpropMemory",
    "SGDMemory",
    "Schedule",
    "Setting",
    "Settings",
    "adadelta",
    "adagrad",
    "adam",
    "adamw",
    "clip_by_norm",
    "clip_by_value",
    "export_schedule",
    "first_order",
    "from_torch",
    "lion",
    "load_schedule",
    "muon",
    "nadam",
    "radam",
    "replay_with_torch",
    "rmsprop",
    "sgd",
    "tensorwise",
]
