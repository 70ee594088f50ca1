"""The short form of `make hostile`: the cases that take a few seconds, on one live stack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.__main__ import judged
from tests.hostile.cases import Case, Stage
from tests.hostile.live import Live
from tests.hostile.stages import CASES, opened

pytestmark = pytest.mark.servers
SHORT = [case for case in CASES if case.short]


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One stack for all of them."""
    with opened(tmp_path_factory.mktemp("hostile") / "stack", Stage.LOG, SHORT) as found:
        yield found


@pytest.mark.parametrize("case", SHORT, ids=[case.name for case in SHORT])
def test_the_answer_to_a_hostile_case_is_the_right_one(live: Live, case: Case) -> None:
    """Said by the case itself; `make hostile` plays those that take longer too."""
    verdict = judged(live, case)
    assert verdict.ok, f"right: {verdict.right}; seen: {verdict.seen}"


def test_every_case_has_a_name_of_its_own_and_the_short_ones_share_a_stage() -> None:
    """Names choose cases, and one stack is what `make test` has time for."""
    assert len({case.name for case in CASES}) == len(CASES)
    assert {case.stage for case in SHORT} == {Stage.LOG}
