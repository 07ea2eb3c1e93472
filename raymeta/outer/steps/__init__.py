"""Hyper-optimizers: how a descent steps in unconstrained coordinates."""
