"""Partition of a joint graph into a forward and a backward one."""

from torch import fx

from raymeta.compile.trace import aten, is_random

#: They cost nothing, so that computing them again beats keeping them.
VIEWS = {
    aten.expand.default,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.squeeze.dims,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
}


def split(
    graph: fx.GraphModule, inputs: int, outputs: int
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a graph of values and their pullback in two.

    Args:
        graph: (inputs…, cotangents…) -> (outputs…, pulled back…); the outputs do not
            depend on the cotangents.
        inputs: how many.
        outputs: how many.

    Returns:
        (inputs…) -> (outputs…, saved…), and (saved…, cotangents…) -> (pulled back…).
        What is saved are inputs and intermediate values, none twice.
    """
    nodes = list(graph.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    results = nodes[-1].args[0]
    late = set(placeholders[inputs:])
    for node in nodes[:-1]:
        if any(source in late for source in node.all_input_nodes):
            late.add(node)
    wanted = [x for node in nodes if node in late for x in node.all_input_nodes]
    saved, again = _saved([*wanted, *results[outputs:]], late)

    first, second = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[:-1]:
        if node not in late:
            copies[node] = first.node_copy(node, copies.__getitem__)
    first.output([copies[node] for node in [*results[:outputs], *saved]])
    first.eliminate_dead_code()

    given = [*saved, *placeholders[inputs:]]
    copies = {node: second.placeholder(node.name) for node in given}
    for node in nodes[:-1]:
        if node not in copies and (node in late or node in again):
            copies[node] = second.node_copy(node, copies.__getitem__)
    second.output([copies[node] for node in results[outputs:]])
    return fx.GraphModule(graph, first), fx.GraphModule(graph, second)


def _saved(
    wanted: list[fx.Node], late: set[fx.Node]
) -> tuple[list[fx.Node], set[fx.Node]]:
    """What the second half needs of the first: to be kept, to be computed again."""
    saved: dict[fx.Node, None] = {}
    again: set[fx.Node] = set()
    stack = wanted[::-1]
    while stack:
        node = stack.pop()
        if node in late or node in saved or node in again:
            continue
        free = node.op != "placeholder" and not node.all_input_nodes
        if (free and not is_random(node)) or node.target in VIEWS:
            again.add(node)
            stack.extend(node.all_input_nodes)
        else:
            saved[node] = None
    return list(saved), again
