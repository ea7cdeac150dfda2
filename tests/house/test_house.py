"""The rules of the house hold: style, types and the direction of imports (`make lint`), and functions fit a screen."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LONGEST_FUNCTION = 70  # lines, docstring included


@pytest.mark.parametrize("tool", ["ruff check", "mypy", "lint-imports"])
def test_make_lint_is_clean(tool: str, root: Path) -> None:
    name, *arguments = tool.split()
    done = subprocess.run(
        [Path(sys.executable).with_name(name), *arguments], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_functions_fit_a_screen(root: Path) -> None:
    too_long = [
        f"{path.relative_to(root)}:{node.lineno} {node.name}: {node.end_lineno - node.lineno + 1} lines"
        for path in (root / "stages").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not too_long


def test_public_names_are_documented(root: Path) -> None:
    bare = []
    for path in (root / "stages").rglob("*.py"):
        tree = ast.parse(path.read_text())
        if path.stat().st_size and not ast.get_docstring(tree):
            bare.append(f"{path.relative_to(root)}")
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    bare.append(f"{path.relative_to(root)}:{node.lineno} {node.name}")
    assert not bare
