"""JSON Schemas (2020-12) of the files that other programs may read, kept in docs/schemas.

python -m analysis.bundle.json_schemas docs/schemas
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from analysis.bundle.manifest import Manifest
from analysis.ensembling.distilled_result import DistilledResult
from analysis.ensembling.pseudo_result import PseudoResult
from analysis.ensembling.result import EnsembleResult
from trainables.files import write_text

SCHEMAS: Mapping[str, type[BaseModel]] = {
    "ensemble": EnsembleResult,
    "bundle": Manifest,
    "distilled": DistilledResult,
    "pseudo": PseudoResult,
}


def schema_text(model: type[BaseModel]) -> str:
    """The schema of a file that holds one `model`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **model.model_json_schema()}
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def write_schemas(folder: Path) -> None:
    """Write <name>.schema.json of every file into `folder`."""
    for name, model in SCHEMAS.items():
        write_text(folder / f"{name}.schema.json", schema_text(model))


if __name__ == "__main__":
    write_schemas(Path(sys.argv[1]))
