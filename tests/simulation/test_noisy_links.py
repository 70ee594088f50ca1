"""Two living regions with noise between them: nothing is promoted falsely, and the judge could see it if it were."""

from __future__ import annotations

from services.adapters.signer import Ed25519Signer
from tests.simulation.noise import Noise, Often, Spans
from tests.simulation.noisy_world import World

LONG_CUTS = Noise(uplink=Often(600.0, 50.0, 90.0))
HOURS = 5.0


def test_I10_noisy_links_alarm_and_promote_nobody(signer: Ed25519Signer) -> None:
    """The short form of `make bench-noise`: cuts up to a minute, losses, tails and pauses under the default profile."""
    counts = World(1, signer, HOURS).run().counts
    assert (counts.false, counts.broken) == (0, [])
    assert counts.events["failover.promoted"] == counts.lapsed == 0
    assert counts.events["failover.alarm link_lost"] > 0, "there was noise"
    assert counts.requests["read failed"] > 0
    assert counts.requests["write failed"] > 0
    assert counts.patience_raised > 0
    assert counts.beats > HOURS * 3600 * 3.5, "two nodes of each region, a second apart, but for their own pauses"


def test_a_primary_that_was_away_for_a_whole_lease_is_replaced_and_that_is_no_false_promotion(
    signer: Ed25519Signer,
) -> None:
    """The other side of it: cuts of everything that outlast the lease do move the run, after its validity."""
    counts = World(0, signer, HOURS, LONG_CUTS).run().counts
    assert (counts.false, counts.broken) == (0, [])
    assert counts.lapsed == counts.events["failover.promoted"] > 0
    assert sum(counts.tries.values()) >= counts.lapsed
    assert counts.gaps > 0


def test_the_judge_sees_a_false_promotion(signer: Ed25519Signer) -> None:
    """A planted fault: clocks 60 % apart under a bound of 1 %; a judge that found nothing would prove nothing."""
    counts = World(0, signer, HOURS, LONG_CUTS, {"east": 0.7, "west": 1.3}).run().counts
    assert counts.false > 0
    assert any("false promotion" in one for one in counts.broken)


def test_a_seed_alone_replays_an_hour_of_noise(signer: Ed25519Signer) -> None:
    """Every count is the same."""
    first, second = (World(7, signer, 1.0).run().counts for _ in range(2))
    assert first == second


def test_spans_answer_for_every_moment() -> None:
    """Spans that touch are one; the end of a span is outside of it."""
    spans = Spans([(1.0, 2.0), (5.0, 6.0)]).with_all(Spans([(1.5, 3.0), (6.0, 7.0)]))
    assert len(spans) == 2
    assert [spans.after(at_s) for at_s in (0.0, 1.0, 2.5, 3.0, 6.0)] == [0.0, 3.0, 3.0, 3.0, 7.0]
    assert [spans.before(at_s) for at_s in (0.5, 2.0, 3.0, 6.5)] == [0.5, 1.0, 3.0, 5.0]
    assert (4.0 in spans, 5.5 in spans) == (False, True)
