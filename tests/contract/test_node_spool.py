"""The agent's view of a node directory, over what the client really writes there."""

from __future__ import annotations

from pathlib import Path

from farside import _spool
from farside._session import Identity, Session
from services.adapters.spool import UNREADABLE, NodeSpool


def test_a_whole_record_with_other_fields_goes_on_as_unreadable_and_does_not_hold_up_the_log(tmp_path: Path) -> None:
    """A newer client may write what this agent does not know: it keeps its content and the next record follows."""
    producer = "r00000-0123456789abcdef"
    folder = _spool.producer_folder(tmp_path, "gpt", producer)
    writer = _spool.SpoolWriter(folder, "gpt")
    writer.append("metrics", "metric", epoch=1, attempt=1, step=1, body={"values": {"loss": 0.5}})
    writer.sync()
    writer.close()
    log = _spool.log_path(folder)
    known = log.read_bytes()
    log.write_bytes(_spool.encode_frame({"from_the_future": 1}) + known)
    strange, record = NodeSpool(tmp_path).read("gpt", producer, 0)
    assert (strange.lane, strange.body["record"]) == (UNREADABLE, {"from_the_future": 1})
    assert (record.lane, record.step) == ("metrics", 1)


def test_a_launch_that_died_while_it_waited_is_not_asked_for(tmp_path: Path) -> None:
    """Its grant would be an attempt that nobody trains, and would displace the launch that took its place."""
    launches = [
        Session(Identity("gpt", tmp_path, name, rank=0, local_rank=0, world_size=1)) for name in ("first", "second")
    ]
    for launch in launches:
        launch.request("exact")
    assert NodeSpool(tmp_path).launches("gpt") == ("first", "second")
    launches[0].close()
    assert NodeSpool(tmp_path).launches("gpt") == ("second",)
    launches[1].close()
    assert NodeSpool(tmp_path).launches("gpt") == ()


def test_a_grant_that_cannot_be_read_yet_is_read_as_soon_as_it_can(tmp_path: Path) -> None:
    """Grants are kept once they were read: what was not must not be kept as nothing."""
    folder = _spool.launch_folder(tmp_path, "gpt", "l1")
    folder.mkdir(parents=True)
    agent = NodeSpool(tmp_path)
    _spool.grant_path(folder).write_text('{"launch": ')
    assert agent.grants("gpt") == ()
    agent.grant("gpt", "l1", {"launch": "l1", "epoch": 1, "attempt": 1})
    assert agent.grants("gpt") == ({"launch": "l1", "epoch": 1, "attempt": 1},)
