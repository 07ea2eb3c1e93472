"""Kernels of traced graphs: replayed, or compiled by inductor."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx
from torch._functorch import config as functorch

from raymeta.compile.dispatch import has_complex
from raymeta.compile.trace import Kernel
from raymeta.process import preserved

#: How inductor translates graphs. Its layout of images is made for large ones: on small
#: convolutions it takes up to 1.8 times as long. That the compiler knows the vector
#: instructions of the processor is taken for granted: trying them out takes seconds.
INDUCTOR = {
    "cpp_wrapper": True,
    "layout_optimization": False,
    "cpp.vec_isa_ok": True,
}


def build(graph: fx.GraphModule, example: Sequence[Tensor], compiled: bool) -> Kernel:
    """A traced graph as a function: replayed operator by operator, or compiled.

    One with complex tensors is replayed: inductor leaves them to the operators anyway,
    but gets their conjugates wrong.
    """
    if not compiled or has_complex(graph.forward, example):
        return graph.forward
    with preserved():  # it sets a variable for its cache
        # Which takes two seconds, so only where it is needed.
        from torch._inductor import compile_fx
    found: list[Any] = []

    def translate(graph: Any, given: Sequence[Any], **options: Any) -> Any:
        code = compile_fx.compile_fx_inner(graph, given, **options)
        found.extend([code] if len(given) == len(example) else [])
        return code

    # Of what inductor makes, the kernel alone: what it puts around it for autograd and
    # for writing into arguments, neither of which is here, takes 5 µs a call. But it
    # also hands over the graph's constants, where it has some.
    with functorch.patch(enable_autograd_cache=False):  # which has no kernel alone
        whole: Any = compile_fx.compile_fx(
            graph, list(example), translate, dict(INDUCTOR)
        )
    if not found:
        return whole
    return lambda *flat: found[0].current_callable(list(flat))
