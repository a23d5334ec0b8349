"""The schemas in docs/schemas: up to date, and what the product's files keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from factories import as_json, make_ensemble, make_member
from jsonschema import Draft202012Validator

from analysis.bundle.json_schemas import SCHEMAS, schema_text
from analysis.ensembling.result import EnsembleResult

DOCS = Path(__file__).parents[3] / "docs" / "schemas"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schema_in_the_docs_is_up_to_date(name: str) -> None:
    written = (DOCS / f"{name}.schema.json").read_text(encoding="utf-8")
    assert written == schema_text(SCHEMAS[name]), "run: python -m analysis.bundle.json_schemas docs/schemas"


@pytest.mark.parametrize(
    ("change", "message"),
    [({}, None), ({"cost_unit": "seconds"}, "'seconds' is not one of"), ({"more": 1}, "'more' was unexpected")],
)
def test_the_schema_accepts_a_result_and_refuses_others(change: dict[str, Any], message: str | None) -> None:
    values = as_json(make_ensemble(["a", "b"], [make_member()])) | change
    found = [error.message for error in Draft202012Validator(EnsembleResult.model_json_schema()).iter_errors(values)]
    assert len(found) == (message is not None)
    assert all(message in one for one in found if message)
