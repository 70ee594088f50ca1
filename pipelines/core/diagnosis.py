"""Diagnoses which part is broken, as far as one controller can see: node, job, link, Kafka, store ... region. Pure.

A diagnosis is for people and for the history. It names its evidence; it never grants anything (I10). One silent node is
never a silent region, and a part that only we cannot reach is diagnosed as the link.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipelines.core.alarm_texts import TEXTS, Kind
from pipelines.core.failure_detector import PHI_MOST
from pipelines.core.troubles import Finding
from schemas.http_bodies import DiagnosisStatus

NEVER_AGE_S = math.inf


class Trouble(enum.Enum):
    """The part that fails."""

    NONE = "none"
    OBSERVER = "observer"  # our own region: what it says of others counts less
    WITNESS = "witness"
    NODE = "node"
    JOB = "job"  # nodes beat, nothing is committed
    LINK = "link"
    KAFKA = "kafka"
    STORE = "store"
    CONTROLLER = "controller"  # its nodes beat, its authority is not renewed
    REGION = "region"
    REPLICA = "replica"  # this region's copy of the run is damaged
    REPLICATION = "replication"  # it does not move, or is too far behind
    UPLOAD = "upload"
    CHECKPOINTS = "checkpoints"  # they are given up
    DEPENDENCY = "dependency"  # a part is refused again and again
    SERVICE = "service"  # one of this region's own does not answer


_OF_FINDING = {
    Kind.DAMAGE: Trouble.REPLICA,
    Kind.LANE: Trouble.REPLICATION,
    Kind.BACKLOG: Trouble.REPLICATION,
    Kind.INCOMPLETE: Trouble.REPLICATION,
    Kind.LAG: Trouble.REPLICATION,
    Kind.LAG_UNKNOWN: Trouble.REPLICATION,
    Kind.UPLOADS: Trouble.UPLOAD,
    Kind.NO_PROGRESS: Trouble.JOB,
    Kind.ABANDONED: Trouble.CHECKPOINTS,
    Kind.REFUSED: Trouble.DEPENDENCY,
    Kind.UNSEEN: Trouble.SERVICE,
}


@dataclass(frozen=True, slots=True)
class NodeSign:
    """One node of the holder, as heard: age of its last beat, and how surprising that is."""

    age_s: float
    phi: float
    silent: bool


@dataclass(frozen=True, slots=True)
class Vantage:
    """The parts of the holder's region as one observer outside of it reaches them. Ages in seconds; infinite: never.

    Attributes:
        name: region and service.
        kafka_age_s: since its Kafka answered.
        store_age_s: since its store answered.
        nodes_age_s: since a node of it was heard.
    """

    name: str
    kafka_age_s: float = NEVER_AGE_S
    store_age_s: float = NEVER_AGE_S
    nodes_age_s: float = NEVER_AGE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Symptoms:
    """Everything that a diagnosis looks at. Ages in seconds, infinite for never.

    Attributes:
        region: who looks.
        holder: who holds the run.
        witness_age_s: since the witness answered us; `witness_limit_s` is too long.
        renewed_age_s: since the record was seen to change; after `renewed_limit_s` its holder does not renew.
        controller_age_s: since the holder's controller was heard.
        commit_age_s: since the committed step rose; `commit_limit_s` is late for this run.
        log_age_s: since our own Kafka acknowledged; `evidence_s` is too long.
        store_age_s: since our own store took a write.
        score: our own health, 0 is well.
        silence_s: from which on a silence counts.
        reach_s: a part that answered nobody for so long is not reached.
        findings: everything else that is wrong in our own region.
    """

    region: str
    holder: str
    witness_age_s: float
    witness_limit_s: float
    renewed_age_s: float
    renewed_limit_s: float
    controller_age_s: float
    log_age_s: float
    store_age_s: float
    evidence_s: float
    silence_s: float
    reach_s: float
    score: int = 0
    commit_age_s: float = 0.0
    commit_limit_s: float = math.inf
    nodes: Mapping[str, NodeSign] = field(default_factory=dict)
    vantages: tuple[Vantage, ...] = ()
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The part that fails, whose it is, and the evidence in words."""

    trouble: Trouble
    where: str
    evidence: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line."""
        head = "nothing is wrong" if self.trouble is Trouble.NONE else f"{self.trouble.value} of {self.where}"
        return f"{head}: {'; '.join(self.evidence)}" if self.evidence else head

    def status(self) -> DiagnosisStatus:
        """The diagnosis as `/status` answers it."""
        return DiagnosisStatus(trouble=self.trouble.value, where=self.where, evidence=self.evidence, text=self.text)


def diagnose(seen: Symptoms) -> Diagnosis:
    """The part that explains what is seen; the first rule that fits, from the observer outwards.

    "Nothing is wrong" is said only if everybody is heard and reached, and nothing else was found (I19).
    """
    unreached = _of_parts(seen)
    if unreached is not None:
        return unreached
    if seen.findings:
        return Diagnosis(
            _OF_FINDING[seen.findings[0].kind],
            seen.region,
            tuple(f"{TEXTS[one.kind]}: {one.text}" for one in seen.findings),
        )
    return Diagnosis(Trouble.NONE, seen.holder)


def _of_parts(seen: Symptoms) -> Diagnosis | None:
    silent: list[str] = [name for name, node in seen.nodes.items() if node.silent]
    own = _of_ourselves(seen)
    if own is not None:
        return own
    if seen.witness_age_s > seen.witness_limit_s:
        return Diagnosis(Trouble.WITNESS, "the witness", (f"it has not answered us for {_age(seen.witness_age_s)}",))
    if silent and len(silent) < len(seen.nodes):
        others = sorted(set(seen.nodes) - set(silent))
        return Diagnosis(Trouble.NODE, ", ".join(sorted(silent)), (*_silences(seen, silent), f"{others[0]} beats"))
    if silent or not seen.nodes:
        return _silent_region(seen, silent)
    return _while_heard(seen)


def _of_ourselves(seen: Symptoms) -> Diagnosis | None:
    """Our own Kafka, store or pace: in the holder a part of the region, in a standby a reason to doubt ourselves."""
    holds = seen.region == seen.holder
    for trouble, name, age_s in (
        (Trouble.KAFKA, "Kafka", seen.log_age_s),
        (Trouble.STORE, "store", seen.store_age_s),
    ):
        if age_s > seen.evidence_s:
            evidence = (f"our own {name} has not answered for {_age(age_s)}",)
            return Diagnosis(trouble if holds else Trouble.OBSERVER, seen.region, evidence)
    if seen.score > 0:
        return Diagnosis(Trouble.OBSERVER, seen.region, (f"this controller stood still or failed: score {seen.score}",))
    return None


def _silent_region(seen: Symptoms, silent: list[str]) -> Diagnosis:
    """Name the part when we hear no node of the holder: its nodes, its Kafka, the link, or the whole region."""
    heard = [vantage for vantage in seen.vantages if vantage.nodes_age_s < seen.silence_s]
    kafka = [vantage for vantage in seen.vantages if vantage.kafka_age_s < seen.reach_s]
    store = [vantage for vantage in seen.vantages if vantage.store_age_s < seen.reach_s]
    renews = seen.renewed_age_s < seen.renewed_limit_s
    signs = [*_silences(seen, silent), f"its record changed {_age(seen.renewed_age_s)} ago"]
    signs += [_reaches(vantage, seen.reach_s) for vantage in seen.vantages]
    evidence, where = tuple(signs), seen.holder
    if seen.region == seen.holder or seen.controller_age_s < seen.silence_s:
        return Diagnosis(Trouble.NODE, f"{where} (all nodes)", evidence)
    if heard:
        return Diagnosis(Trouble.LINK, f"{seen.region} to {where}", evidence)
    if store and not kafka:
        return Diagnosis(Trouble.KAFKA, where, evidence)
    if renews:  # it works and says so at the witness; what we do not reach is between us
        return Diagnosis(Trouble.LINK, f"{seen.region} to {where}", evidence)
    return Diagnosis(Trouble.REGION, where, evidence)


def _while_heard(seen: Symptoms) -> Diagnosis | None:
    """Name the part when the holder's nodes beat."""
    if seen.renewed_age_s > seen.renewed_limit_s:
        evidence = (f"its nodes beat, its record has not changed for {_age(seen.renewed_age_s)}",)
        return Diagnosis(Trouble.CONTROLLER, seen.holder, evidence)
    if seen.vantages and all(vantage.store_age_s >= seen.reach_s for vantage in seen.vantages):
        return Diagnosis(
            Trouble.STORE, seen.holder, tuple(_reaches(vantage, seen.reach_s) for vantage in seen.vantages)
        )
    if seen.commit_age_s > seen.commit_limit_s:
        late = f"nothing was committed for {_age(seen.commit_age_s)}, {_age(seen.commit_limit_s)} is late for this run"
        return Diagnosis(Trouble.JOB, seen.holder, (late,))
    return _partly_reached(seen)


def _partly_reached(seen: Symptoms) -> Diagnosis | None:
    """Name what only some observer misses while the nodes beat: a part of the way to the holder."""
    missed = [one for one in seen.vantages if one.kafka_age_s >= seen.reach_s or one.store_age_s >= seen.reach_s]
    if missed:
        evidence = tuple(_reaches(vantage, seen.reach_s) for vantage in missed)
        return Diagnosis(Trouble.LINK, f"{seen.region} to {seen.holder}", evidence)
    if seen.controller_age_s > max(seen.silence_s, seen.reach_s):
        evidence = (f"its controller was not heard for {_age(seen.controller_age_s)}; its record is renewed",)
        return Diagnosis(Trouble.CONTROLLER, seen.holder, evidence)
    return None


def _silences(seen: Symptoms, silent: list[str]) -> tuple[str, ...]:
    silent_nodes = ((name, seen.nodes[name]) for name in sorted(silent))
    signs = tuple(f"{name} silent for {_age(node.age_s)} (phi {_phi(node.phi)})" for name, node in silent_nodes)
    return signs or ("no node was ever heard",)


def _reaches(vantage: Vantage, reach_s: float) -> str:
    parts = {"Kafka": vantage.kafka_age_s, "store": vantage.store_age_s}
    words = [f"{name} {'answers' if age_s < reach_s else 'does not answer'}" for name, age_s in parts.items()]
    return f"seen from {vantage.name}: {', '.join(words)}"


def _phi(phi: float) -> str:
    return "certain" if phi >= PHI_MOST else f"{phi:.1f}"


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if math.isfinite(seconds) else "ever"
