"""Which operations of a network become the end of one before them.

What follows a convolution or a batch norm, and is the only reader of its values, joins it: batch norm, an addition,
ReLU, max pooling, in this order. Each value is rounded as if it were stored in between, so the bits are the same; the
backend computes them in as few kernels as it can (`conv_inference`, `batch_norm_inference`).
"""

from collections import Counter
from dataclasses import replace

from gpucnn.inference.graph import Graph, Node


def joined(graph: Graph) -> Graph:
    """The graph with such operations in one node: their settings are `norm`, `relu` and `pool`, and what is added is a
    second input."""
    readers = Counter(id(before) for node in graph.nodes for before in node.inputs)
    following = {id(before): node for node in graph.nodes for before in node.inputs}
    made: dict[int, Node] = {}  # by the id of the last node in it; what is not there is a part of another
    taken: set[int] = set()
    nodes = []
    for node in graph.nodes:
        if id(node) in taken:
            continue
        new = replace(node, inputs=tuple(made[id(before)] for before in node.inputs))
        last = node
        while node.operation in ("conv", "batch norm") and readers[id(last)] == 1:
            longer = _with(new, last, following[id(last)], made)
            if longer is None:
                break
            new, last = longer, following[id(last)]
            taken.add(id(last))
        made[id(last)] = new
        nodes.append(new)
    return Graph(nodes)


def _with(node: Node, last: Node, following: Node, made: dict[int, Node]) -> Node | None:
    """`node`, with the values of `last` in the traced graph, and `following` in one; None where they stay two."""
    settings, inputs = dict(node.settings), node.inputs
    rectified, added = settings["relu"], len(inputs) > 1
    if "pool" in settings:
        return None
    match following.operation:
        case "max pool":
            settings["pool"] = following.settings["window"]
        case "elementwise" if following.settings["name"] == "relu":
            settings["relu"] = True
        case "batch norm" if not (rectified or added or "norm" in settings or node.operation == "batch norm"):
            settings["norm"] = tuple(following.settings[name] for name in ("mean", "var", "gamma", "beta", "eps"))
            settings["relu"] = following.settings["relu"]
        case "add" if not (rectified or added):
            others = [before for before in following.inputs if before is not last]
            if len(others) != 1 or id(others[0]) not in made:
                return None  # the other is computed later
            inputs, settings["relu"] = (*inputs, made[id(others[0])]), following.settings["relu"]
        case _:
            return None
    return Node(node.operation, inputs, following.shape, settings)
