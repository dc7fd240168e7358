"""The public contract equals `golden/contract.json`: nothing that users rely on changes unnoticed."""

from __future__ import annotations

import json

import pytest

from tests import contract


@pytest.fixture(scope="module")
def documents() -> tuple[dict, dict]:
    now = json.loads(json.dumps(contract.document()))
    return now, json.loads(contract.GOLDEN.read_text("utf-8"))


@pytest.mark.parametrize("part", ["names", "signatures", "commands", "errors", "layouts", "states", "files", "batches"])
def test_the_contract_is_unchanged(documents: tuple[dict, dict], part: str) -> None:
    now, golden = (document[part] for document in documents)
    assert {name: now.get(name) for name in golden} == golden
    assert set(now) == set(golden), "update the golden document: python -m tests.contract"
