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
    monkeypatch.setattr(item, "_id", type(item.id).parse(item.nodeid.rpartition("@some group")[0] or item.nodeid))
    pytest_collection_modifyitems(SimpleNamespace(option=SimpleNamespace(loadgroup=True)), [item])
    assert LoadGroupScheduling._split_scope(None, item.nodeid) == "some group"


@pytest.fixture(scope="module")
def shared() -> None:
    """Makes the tests of this file that have no group of their own one."""


def test_a_file_with_a_fixture_of_its_own_is_a_group(
    shared: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    item: Any = request.node
    monkeypatch.setattr(item, "_id", type(item.id).parse(item.nodeid.partition("@")[0]))
    pytest_collection_modifyitems(SimpleNamespace(option=SimpleNamespace(loadgroup=True)), [item])
    assert LoadGroupScheduling._split_scope(None, item.nodeid) == "tests/test_groups.py"
