"""The benchmark of number formats: the products are the ones it names."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.precision import PrecisionConfig, main, products
from copo_algos.errors import UserError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_products_have_the_shapes_of_a_layers_passes(dtype: torch.dtype):
    found = {key: work() for key, work in products(8, dtype).items()}
    shapes = {key: tuple(value.shape) for key, value in found.items() if isinstance(value, torch.Tensor)}
    assert shapes == {
        ("x W", "8 x 92 x 256"): (8, 256),
        ("x^T d", "8 x 92 x 256"): (92, 256),
        ("d W^T", "8 x 92 x 256"): (8, 92),
        ("x W", "8 x 256 x 256"): (8, 256),
        ("x^T d", "8 x 256 x 256"): (256, 256),
        ("d W^T", "8 x 256 x 256"): (8, 256),
    }
    assert {value.dtype for value in found.values() if isinstance(value, torch.Tensor)} == {dtype}


def test_the_tables(tmp_path: Path):
    main(PrecisionConfig(rows=4, blocks=1, products=1, scene="particles", updates=10, output=tmp_path))
    with (tmp_path / "precision.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 and rows[-1]["shape"] == "4 x 92 x 256 x 256 x 1"
    assert all(float(row[f"{kind}_us"]) > 0 for row in rows for kind in ("float32", "bfloat16"))
    assert {"command", "hardware", "instructions"} <= set(json.loads((tmp_path / "precision.json").read_text()))
    with (tmp_path / "updates.csv").open(newline="") as file:
        bfloat16, order = csv.DictReader(file)
    assert (bfloat16["update"], bfloat16["other"], order["other"]) == ("10", "bfloat16", "order")
    assert 1 > float(bfloat16["critics_cosine"]) > float(order["critics_cosine"]) > 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"products": 0}, "products=0; use 1 or more"),
        ({"updates": -1}, "updates=-1; use 0 or more"),
    ],
)
def test_nothing_to_measure_is_refused(tmp_path: Path, settings: dict[str, Any], sentence: str):
    with pytest.raises(UserError, match=sentence):
        main(PrecisionConfig(**settings, output=tmp_path))
