"""The matrix is whole: each cell has a case or a reason, and each form a test that runs its cases."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.crash.matrix import FORMS, cell_of
from tests.crash.page import PAGE, page


@pytest.mark.parametrize("name", FORMS)
def test_each_cell_has_a_case_or_a_reason(name: str) -> None:
    form = FORMS[name]
    cells, run = set(form.cells), set(map(cell_of, form.cases))
    excused = {cell for cell in cells for never in form.never if never.covers(cell)}
    assert run ^ excused == cells == run | excused


@pytest.mark.parametrize("name", FORMS)
def test_each_form_has_a_test_that_runs_its_cases(name: str) -> None:
    file, _, function = FORMS[name].test.partition("::")
    body = ast.parse((Path(__file__).parent / file).read_text("utf-8")).body
    (found,) = [node for node in body if isinstance(node, ast.AsyncFunctionDef) and node.name == function]
    assert f"{name}.cases" in " ".join(map(ast.unparse, found.decorator_list))


def test_the_page_is_fresh() -> None:
    assert page() == PAGE.read_text("utf-8"), "docs/crash-matrix.md is stale: run `make docs`"
