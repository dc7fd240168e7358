"""The public contract equals `golden/contract.json`: nothing that users rely on changes unnoticed."""

from __future__ import annotations

import json

import pytest

from tests import contract


@pytest.mark.usefixtures("quick_graphs")
def test_the_contract_is_unchanged() -> None:
    now, golden = json.loads(json.dumps(contract.document())), json.loads(contract.GOLDEN.read_text("utf-8"))
    for part in golden:
        assert {name: now[part].get(name) for name in golden[part]} == golden[part], part
        assert set(now[part]) == set(golden[part]), f"{part}: update the golden document: python -m tests.contract"
    assert set(now) == set(golden)
