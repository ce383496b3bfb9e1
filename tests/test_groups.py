"""The suite's own scheduling: tests that share an expensive fixture run in one process."""

from types import SimpleNamespace
from typing import Any

import pytest
from xdist.scheduler.loadgroup import LoadGroupScheduling

from tests.conftest import pytest_collection_modifyitems


@pytest.mark.xdist_group("some group")
@pytest.mark.parametrize("name", ["a", "b@c", "d]e@f"])
def test_the_scheduler_sees_the_group(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    item: Any = request.node
    monkeypatch.setattr(item, "_id", item.id)  # put back afterwards
    pytest_collection_modifyitems(SimpleNamespace(option=SimpleNamespace(loadgroup=True)), [item])
    assert LoadGroupScheduling._split_scope(None, item.nodeid) == "some group"
