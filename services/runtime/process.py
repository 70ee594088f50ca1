"""A service process: flows on threads of their own or of schedulers, the HTTP server, and the exit code.

Exit codes: 0 after SIGTERM or SIGINT, 1 a flow failed, 2 misconfigured, 3 fenced by a newer one.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from starlette.routing import BaseRoute

from pipelines.errors import FencedError, MisconfiguredError, RetryableError
from pipelines.ports import Clock, Journal
from services.http.server import HttpServer, Listen, Turns
from services.runtime.scheduler import Flow, Scheduler

FAILED_EXIT, MISCONFIGURED_EXIT, FENCED_EXIT = 1, 2, 3
JOIN_S = 15.0
RETRY_S = 1.0
GC_ALLOCATIONS = 50_000  # more containers made than freed, before the garbage collector looks: Python's default is 700


class Process:
    """Turns flows until a signal stops it or one of them ends it.

    Args:
        clock: measures how long each flow has not turned.
        journal: records the start, the end, and why a flow ended the process.
        registry: of the metrics that are served.
        listen: where the service is asked, and by whom.
        status: the body of `/status`, made at each request.
        routes: more HTTP routes of this service.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        journal: Journal,
        registry: CollectorRegistry,
        listen: Listen,
        status: Callable[[], object],
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._journal = journal
        self._turns = Turns(clock)
        self._clock = clock
        self._ops = HttpServer(
            listen=listen,
            turns=self._turns,
            registry=registry,
            status=status,
            routes=routes,
            complain=lambda why: journal.say("service.certificate_refused", why=why),
        )
        self._ended = threading.Event()
        self._exit = 0

    def run(
        self, flows: Mapping[str, Flow], close: Sequence[Callable[[], None]] = (), schedulers: Sequence[Scheduler] = ()
    ) -> int:
        """Serve, turn every flow on its own thread or its scheduler's, and wait for the end; the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ended.set())
        _look_for_garbage_seldom()
        self._ops.start()
        threads = [threading.Thread(target=self._turn, args=flow, name=flow[0], daemon=True) for flow in flows.items()]
        threads += [
            threading.Thread(target=self._work, args=(scheduler,), name=f"scheduler-{number}", daemon=True)
            for scheduler in schedulers
            for number in range(scheduler.threads)
        ]
        for thread in threads:
            thread.start()
        self._journal.say("service.started", flows=list(flows), on_crews=[len(scheduler) for scheduler in schedulers])
        self._ended.wait()
        for scheduler in schedulers:
            scheduler.end()
        for thread in threads:
            thread.join(JOIN_S)
        for close_part in close:
            with contextlib.suppress(Exception):  # it ends anyway, and its state is durable
                close_part()
        self._ops.close()
        self._journal.say("service.ended", exit_code=self._exit)
        return self._exit

    def _turn(self, name: str, flow: Flow) -> None:
        while not self._ended.is_set():
            self._ended.wait(self._once(name, flow))

    def _work(self, scheduler: Scheduler) -> None:
        while (taken := scheduler.take()) is not None:
            name, flow = taken
            scheduler.done(name, self._once(name, flow))

    def _once(self, name: str, flow: Flow) -> float:
        """One turn; how long it rests. Whatever it raises ends the process, but for a dependency that is away."""
        self._turns.at_s[name] = self._clock.boottime_s()
        try:
            return flow()
        except RetryableError as error:
            self._journal.say("service.waits", flow=name, why=str(error))
            return RETRY_S
        except FencedError as error:
            self._end(FENCED_EXIT, "service.fenced", name, str(error))
        except MisconfiguredError as error:
            self._end(MISCONFIGURED_EXIT, "service.misconfigured", name, str(error))
        except Exception:  # noqa: BLE001 - the process ends with the trace; a supervisor starts it again
            self._end(FAILED_EXIT, "service.failed", name, traceback.format_exc())
        return JOIN_S

    def _end(self, code: int, event: str, flow: str, why: str) -> None:
        self._journal.say(event, flow=flow, why=why)
        self._exit = max(self._exit, code)
        self._ended.set()


def _look_for_garbage_seldom() -> None:
    """Keep the collector off what lives as long as the process: libraries, clients and their models.

    They are some hundred thousand objects, and a flow that holds a batch of records has all of them looked at again and
    again, with every thread halted: a sixth of the replicator's time, and its longest pauses.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_ALLOCATIONS, 20, 20)
