"""The private calls of torch, all of them, each with the reason why no public one will do.

tests/networks/test_torch_private.py fails when a new torch no longer has one of them, or when it means something else.
It also fails when another file calls something private.
"""

from __future__ import annotations

from typing import Any

import torch


def engine_wants(node: Any) -> bool:
    """Whether the running backward pass will execute a node of the graph, that is: whether anything asks for it.

    R1 and path length differentiate with respect to images and latents. The weights' gradients are not asked for there,
    although the weights require them (`needs_input_grad` is true). torch's own operators put this question to the
    engine before they compute such a gradient. No public call does. Without it an update of the discriminator with R1
    computes every weight gradient twice.

    Present since torch 1.11; tested with 2.8 to 2.15.

    Args:
        node: an entry's first element of a `torch.autograd.Function` context's `next_functions`, not of a leaf.

    Raises:
        RuntimeError: no backward pass is running, or the node is a leaf's.
    """
    return bool(torch._C._will_engine_execute_node(node))
