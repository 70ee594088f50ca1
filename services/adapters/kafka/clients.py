"""kafka-python's clients, made and thrown away so that nothing of them is left: the library does not see to that.

A consumer or an admin client whose first connection fails raises from its constructor, and leaves a thread with its
sockets behind. A producer with something undelivered raises from `close`, and its thread goes on for ever. Made anew
each second of an outage, they would use up a service's files within the hour. And a dead broker whose proxy or load
balancer still accepts would be connected to without a pause, which takes a core.
"""

from __future__ import annotations

import contextlib
from typing import Any

from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

CLOSE_S = 1.0


class _Patient(KafkaConnectionManager):  # type: ignore[misc]  # kafka-python has no types
    """Connections whose pause before the next try ends when one has come about, and not when it was accepted only."""

    def reset_backoff(self, node_id: Any) -> None:  # noqa: ANN401 - kafka-python has no types
        """Called for each connection that was opened; one that was closed before the broker said a word has failed."""
        connection = self._conns.get(node_id)
        if connection is not None and connection.connected:
            super().reset_backoff(node_id)
        else:
            self.update_backoff(node_id)


def network(**configs: Any) -> Any:  # noqa: ANN401 - kafka-python has no types
    """The network part of a client of kafka-python, with our pause between connections."""
    selector = NetworkSelector(**configs)
    return KafkaNetClient(net=selector, manager=_Patient(selector, **configs))


def made(kind: Any, **configs: Any) -> Any:  # noqa: ANN401 - kafka-python has no types
    """A client of a kind; if that fails, everything that it had started is ended."""
    started: list[Any] = []

    def noted(**more: Any) -> Any:  # noqa: ANN401 - kafka-python has no types
        started.append(network(**more))
        return started[-1]

    try:
        return kind(kafka_client=noted, **configs)
    except BaseException:
        for network_client in started:
            network_client.close()
        raise


def thrown_away(producer: Any) -> None:  # noqa: ANN401 - kafka-python has no types
    """Close a producer; what it has not delivered is given up."""
    try:
        producer.close(timeout=CLOSE_S)
    except Exception:  # noqa: BLE001 - whatever it is, the thread has to end
        # Only its sender can give up what waits; `close` flushes before it would tell it to.
        producer._sender.force_close()  # noqa: SLF001 - there is no other way
        with contextlib.suppress(Exception):
            producer.close(timeout=CLOSE_S)
