"""torch's private calls: they mean what they did, and no other file makes one."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import stages
from stages.networks.ops.torch_private import engine_wants

ROOT = Path(stages.__path__[0])
HOME = ROOT / "networks" / "ops" / "torch_private.py"


class Product(torch.autograd.Function):
    """x * w, which notes whether the engine wants the gradient of w."""

    wanted: list[bool] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        Product.wanted.append(engine_wants(ctx.next_functions[1][0]))
        return grads[0] * w, grads[0] * x


@pytest.mark.parametrize("both", [True, False])
def test_the_engine_says_which_gradients_are_asked_for(both: bool) -> None:
    x, leaf = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    w = leaf.view_as(leaf)
    Product.wanted.clear()
    torch.autograd.grad(Product.apply(x, w).sum(), [x, w] if both else [x])
    assert Product.wanted == [both]


def test_outside_of_a_backward_pass_it_is_refused() -> None:
    leaf = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError):
        engine_wants(leaf.view_as(leaf).grad_fn)


def private_calls(source: str) -> set[str]:
    """What a source takes from torch under a name with a leading underscore, and the version of a tensor."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            head: ast.expr = node.value
            while isinstance(head, ast.Attribute):
                head = head.value
            if isinstance(head, ast.Name) and head.id in ("torch", "nn", "F") or node.attr == "_version":
                found.add(ast.unparse(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("torch", "torchvision"):
            found |= {f"{node.module}.{name.name}" for name in node.names if name.name.startswith("_")}
            found |= {node.module or "" for part in (node.module or "").split(".") if part.startswith("_")}
    return found


def test_private_calls_live_in_one_file() -> None:
    found = {path: private_calls(path.read_text()) for path in ROOT.rglob("*.py")}
    assert found.pop(HOME) == {"torch._C._will_engine_execute_node", "torch._C"}
    assert {str(path): calls for path, calls in found.items() if calls} == {}


def test_the_search_sees_what_it_looks_for() -> None:
    seen = private_calls("from torch._utils import x\ntorch.cpu._is_amx()\ny = tensor._version\nself._own = 1\n")
    assert seen == {"torch._utils", "torch.cpu._is_amx", "tensor._version"}
