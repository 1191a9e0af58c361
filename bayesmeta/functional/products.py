"""Batched matrix products of a compiled graph, turned so that the widest side of what they give is the one stored in a row.

Gradients of gradients have many products that are tall, such as (B, 40, 10) of (B, 40, 40) and (B, 40, 10). On a CPU these take
two to five times as long as the same product transposed, whose rows are long; what reads it reads a view. With a pass that turns
them, the compiled gradient of second-order MAML on a small network takes three quarters of the time.

Imported when something is compiled: torch's compiler takes seconds to import.
"""

from __future__ import annotations

from torch import Tensor, bmm, ops
from torch._inductor.custom_graph_pass import CustomGraphPass, get_hash_for_files
from torch.fx import Graph, Node

__all__ = ["Turned"]

_PRODUCT, _PERMUTE = ops.aten.bmm.default, ops.aten.permute.default


class Turned(CustomGraphPass):
    """A pass over a graph before it is compiled: (A B) of more rows than columns becomes (Bᵀ Aᵀ)ᵀ. On a CPU alone."""

    def __call__(self, graph: Graph) -> None:
        for node in graph.find_nodes(op="call_function", target=_PRODUCT):
            made: Tensor = node.meta["val"]
            if made.device.type == "cpu" and made.shape[1] > made.shape[2]:
                with graph.inserting_before(node):
                    a, b = (_transposed(graph, part) for part in node.args)
                    product = graph.call_function(_PRODUCT, (b, a))
                    product.meta["val"] = bmm(b.meta["val"], a.meta["val"])
                    turned = _transposed(graph, product)
                node.replace_all_uses_with(turned)
                graph.erase_node(node)

    def uuid(self) -> object:  # by which compiled graphs are kept on disk
        return get_hash_for_files((__file__,))


def _transposed(graph: Graph, of: Node) -> Node:
    node = graph.call_function(_PERMUTE, (of, [0, 2, 1]))
    node.meta["val"] = of.meta["val"].permute(0, 2, 1)
    return node
