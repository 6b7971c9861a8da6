"""Files and functions stay small enough to read at once; every module says what it is for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHIPPED = ("kpctl", "checks", "diagnostics", "proxy")
MOST_LINES = 400
MOST_FUNCTION_LINES = 50


def _files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def _parameters(*folders: str) -> list[object]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in _files(*folders)]


@pytest.mark.parametrize("path", _parameters(*SHIPPED, "tests"))
def test_a_file_has_at_most_400_lines(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES


@pytest.mark.parametrize("path", _parameters(*SHIPPED))
def test_a_function_has_at_most_50_lines(path: Path) -> None:
    functions = (
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: n for name, n in lengths.items() if n > MOST_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", _parameters(*SHIPPED))
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for path in _files(*SHIPPED)}
    assert [str(f) for f in folders if not (f / "__init__.py").exists()] == []


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, id=str(p.relative_to(ROOT)))
        for p in _files(*SHIPPED)
        if p.name == "__init__.py"
    ],
)
def test_a_package_holds_nothing_but_its_description(path: Path) -> None:
    """Importing a part must not pull in its siblings."""
    assert len(ast.parse(path.read_text()).body) == 1
