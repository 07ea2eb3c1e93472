"""Functions that `torch.compile` leaves alone.

As torch's own optimizers do it: `torch.compiler.disable` imports the compiler at once,
which takes a second, this one when the function is called.
"""

from torch._compile import _disable_dynamo as uncompiled

__all__ = ["uncompiled"]
