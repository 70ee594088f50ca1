"""The links between regions: toxiproxy's paths, their shape, their cuts, and how many bytes crossed them."""

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass

from infra.local.errors import StackError
from infra.local.layout import LinkShape, Proxy
from infra.local.ports import HOST
from infra.local.socket_counts import open_connection_bytes

_CALL_S = 5.0
_FAULT = "fault"  # a path has at most one at a time
_RECEIVED = re.compile(r"^toxiproxy_proxy_received_bytes_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class LinkBytes:
    """The bytes that crossed one path since the links were started."""

    to_server: int
    to_client: int

    @property
    def total(self) -> int:
        """The bytes of both directions together."""
        return self.to_server + self.to_client


class Links:
    """A client of one toxiproxy."""

    def __init__(self, api_port: int, proxies: Iterable[Proxy], shape: LinkShape) -> None:
        self._api_port = api_port
        self._proxies = {proxy.name: proxy for proxy in proxies}
        self._shape = shape

    def create(self, cut: frozenset[str] = frozenset()) -> None:
        """Makes every path with its shape; those named in ``cut`` start out cut."""
        listed = [
            {
                "name": proxy.name,
                "listen": f"{HOST}:{proxy.listen_port}",
                "upstream": f"{HOST}:{proxy.upstream_port}",
                "enabled": proxy.name not in cut,
            }
            for proxy in self._proxies.values()
        ]
        self._call("POST", "/populate", listed)
        for name in self._proxies:
            for toxic in self._toxics():
                self._call("POST", f"/proxies/{name}/toxics", toxic)

    def select(self, client: str, target: str, what: str | None) -> list[str]:
        """The names of the paths by which ``client`` reaches ``target``.

        Raises:
            StackError: There is no such path.
        """
        names = [
            proxy.name
            for proxy in self._proxies.values()
            if (proxy.client, proxy.target) == (client, target) and what in {None, proxy.what}
        ]
        if not names:
            raise StackError(f"no link from {client!r} to {target!r} for {what or 'anything'}")
        return names

    def switch(self, names: Iterable[str], *, enabled: bool) -> None:
        """Cuts paths (open connections are closed, new ones refused) or heals them."""
        for name in names:
            self._call("POST", f"/proxies/{name}", {"enabled": enabled})

    def half_cut(self, names: Iterable[str], *, answers: bool) -> None:
        """Lose the traffic of one direction, without closing a connection: the answers, or the requests."""
        self._worsen(names, "timeout", {"timeout": 0}, "downstream" if answers else "upstream")

    def slow_down(self, names: Iterable[str], latency_ms: int, jitter_ms: int) -> None:
        """Delay the answers, on top of the shape."""
        self._worsen(names, "latency", {"latency": latency_ms, "jitter": jitter_ms}, "downstream")

    def narrow(self, names: Iterable[str], kilobytes_s: int) -> None:
        """Let no connection's answers cross faster than this, on top of the shape."""
        self._worsen(names, "bandwidth", {"rate": kilobytes_s}, "downstream")

    def restore(self, names: Iterable[str]) -> None:
        """Undo `half_cut`, `slow_down` and `narrow`."""
        for name in names:
            known = json.loads(self._call("GET", f"/proxies/{name}"))["toxics"]
            if any(toxic["name"] == _FAULT for toxic in known):
                self._call("DELETE", f"/proxies/{name}/toxics/{_FAULT}")

    def bytes_by_path(self) -> dict[str, LinkBytes]:
        """Bytes per path, both ways.

        toxiproxy counts a connection when it ends; the kernel tells the rest, for those still open. A connection that
        ends between the two looks is missing from this answer and whole in the next.
        """
        still_open = open_connection_bytes({proxy.listen_port for proxy in self._proxies.values()})
        counted = {name: [0, 0] for name in self._proxies}
        for match in _RECEIVED.finditer(self._call("GET", "/metrics")):
            labels = dict(_LABEL.findall(match["labels"]))
            if labels["proxy"] in counted:
                counted[labels["proxy"]][labels["direction"] == "downstream"] += int(float(match["value"]))
        return {
            name: LinkBytes(
                to_server=to_server + still_open[self._proxies[name].listen_port].received,
                to_client=to_client + still_open[self._proxies[name].listen_port].sent,
            )
            for name, (to_server, to_client) in counted.items()
        }

    def _worsen(self, names: Iterable[str], kind: str, attributes: dict[str, int], stream: str) -> None:
        toxic = {"name": _FAULT, "type": kind, "stream": stream, "attributes": attributes}
        for name in names:
            self._call("POST", f"/proxies/{name}/toxics", toxic)

    def _toxics(self) -> list[dict[str, object]]:
        wanted: list[dict[str, object]] = []
        for stream in ("upstream", "downstream"):
            if self._shape.latency_ms:
                latency = {"latency": self._shape.latency_ms, "jitter": 0}
                wanted.append({"name": f"latency-{stream}", "type": "latency", "stream": stream, "attributes": latency})
            if self._shape.bandwidth_mbit_s:
                # toxiproxy counts in kilobytes per second.
                rate = {"rate": self._shape.bandwidth_mbit_s * 125}
                shape: dict[str, object] = {
                    "name": f"bandwidth-{stream}",
                    "type": "bandwidth",
                    "stream": stream,
                    "attributes": rate,
                }
                wanted.append(shape)
        return wanted

    def _call(self, method: str, path: str, body: object = None) -> str:
        request = urllib.request.Request(
            f"http://{HOST}:{self._api_port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=_CALL_S) as reply:  # noqa: S310 - as above
                return str(reply.read().decode())
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise StackError(f"toxiproxy refused {method} {path}: {error.code} {text}") from error
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            raise StackError(f"toxiproxy does not answer {method} {path}: {error}") from error
