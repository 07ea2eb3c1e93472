"""Hyper-optimizers: how a descent steps in unconstrained coordinates.

Each is a frozen dataclass of settings with a pair of pure functions, as in optax:
`init` gives the state before the first step, and `update` the next state from what was
evaluated last. A state is a NamedTuple of tensors and numbers, to be saved with
everything else.
"""
