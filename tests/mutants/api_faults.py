"""Faults in who may ask the services for what: credentials, roles, browsers, bounds, fences, signatures."""

from __future__ import annotations

from tests.mutants.places import Mutant

DOOR, ROUTES, CALLERS = "services/http/door.py", "services/http/authority_routes.py", "services/http/callers.py"
LIMITS, FILES = "services/http/limits.py", "services/adapters/private_files.py"
TAKEOVERS, LAUNCHING = "pipelines/flows/authority/takeover_requests.py", "pipelines/flows/authority/launches.py"
DOORS = ("tests/core/runtime/test_api_door.py",)
ASKED = ("tests/core/authority/test_takeover_requests.py",)
BEGUN = ("tests/core/authority/test_new_launches.py",)
SIGNED = ("tests/core/authority/test_webhooks.py",)
TLS = ("tests/core/runtime/test_api_tls.py",)

API_FAULTS = (
    Mutant(
        "nobody needs a credential",
        DOOR,
        "if caller is None:\n        return _no(401",
        "if False:\n        return _no(401",
        DOORS,
    ),
    Mutant(
        "a viewer may move a run",
        DOOR,
        "if caller.role not in roles:",
        'if caller.role == "agent" and caller.role not in roles:',
        DOORS,
    ),
    Mutant(
        "a path that is in no table is everybody's",
        DOOR,
        "ROLES.get(path, _MOVE)",
        "ROLES.get(path, _MOVE | _LOOK)",
        DOORS,
    ),
    Mutant("a page in a browser may post", DOOR, 'if "origin" in headers or', "if", DOORS),
    Mutant(
        "any name may stand in Host",
        DOOR,
        "if host not in self._names and not _is_address(host):",
        'if host == "":',
        DOORS,
    ),
    Mutant("any content type is JSON", DOOR, ".strip().lower() != JSON:", '.strip().lower() == "-":', DOORS),
    Mutant(
        "a token is compared at its beginning",
        CALLERS,
        "hmac.compare_digest(caller.token_sha256, digest)",
        "hmac.compare_digest(caller.token_sha256[:0], digest[:0])",
        DOORS,
    ),
    Mutant("who was locked out stays in", CALLERS, "if stamp != self._stamp:", "if False:", DOORS),
    Mutant("an agent asks for any node", CALLERS, "node == self.node and", "", DOORS),
    Mutant("an agent asks for any run", CALLERS, "(not self.runs or run in self.runs)", "True", DOORS),
    Mutant("a secret may be read by others", FILES, "if found.st_mode & forbidden:", "if False:", DOORS),
    Mutant(
        "settings of the current folder may be anybody's",
        FILES,
        "if found.st_mode & (_GROUP_WRITES | _OTHERS_WRITE) and not sticky:",
        "if False:",
        DOORS,
    ),
    Mutant("the committed step has no bound", ROUTES, "if body.committed_step > STEP_MAX:", "if False:", DOORS),
    Mutant("a move is made twice under one key", ROUTES, "self._answered[key] = known", "pass", DOORS),
    Mutant(
        "texts have no bound",
        "services/http/bodies.py",
        "len(value) > TEXT_CHARS_MAX or not value.isprintable()",
        "False",
        DOORS,
    ),
    Mutant(
        "a half-sent request stays open",
        LIMITS,
        "self._late = self.loop.call_later(REQUEST_S, self.give_up)",
        "self._late = self.loop.call_later(1e6, self.give_up)",
        DOORS,
    ),
    Mutant("nobody makes room", LIMITS, "if len(self.connections) > CONNECTIONS_MAX:", "if False:", DOORS),
    Mutant("a living region counts as fenced", TAKEOVERS, "    if not signs:\n", "    if signs:\n", ASKED),
    Mutant(
        "a fence counts though its region renews", TAKEOVERS, "(request.fenced and unchanged)", "request.fenced", ASKED
    ),
    Mutant(
        "a fence is repeated for any epoch",
        TAKEOVERS,
        "other = request.fenced_epoch != lease.epoch",
        "other = False",
        ASKED,
    ),
    Mutant(
        "a failover is about whichever epoch comes",
        TAKEOVERS,
        "(request.epoch and request.epoch != lease.epoch) or",
        "",
        ASKED,
    ),
    Mutant(
        "the second who asks takes the first one's place",
        TAKEOVERS,
        "if self.pending is not None:\n            other",
        "if False:\n            other",
        ASKED,
    ),
    Mutant(
        "whoever lost is not told",
        TAKEOVERS,
        "if lease is not None and lease.epoch != operator.epoch and lease.holder != self._region:",
        "if False:",
        ASKED,
    ),
    Mutant(
        "the closed gates are not told",
        TAKEOVERS,
        '"the gates stayed closed", decision.gates)',
        '"the gates stayed closed", ())',
        ASKED,
    ),
    Mutant(
        "whoever asks about a launch begins it",
        LAUNCHING,
        "if asked is None or not asked.begins:",
        "if asked is None:",
        BEGUN,
    ),
    Mutant(
        "a launch takes the run from a trainer that works elsewhere",
        LAUNCHING,
        'if others and "" not in asked.nodes:',
        "if False:",
        BEGUN,
    ),
    Mutant(
        "launches are remembered without end",
        LAUNCHING,
        "for oldest in forget_oldest(self._unknown, WAITING_MAX):",
        "for oldest in ():",
        BEGUN,
    ),
    Mutant(
        "an agent's word on a committed step is enough",
        "pipelines/flows/authority/committed_claims.py",
        "max(self.step, min(self.claimed, named))",
        "max(self.step, self.claimed, named)",
        BEGUN,
    ),
    Mutant(
        "a webhook's signature leaves the time out",
        "services/adapters/http/poster.py",
        'f"{wall_s}.".encode() + body',
        "body",
        SIGNED,
    ),
    Mutant(
        "a renewed certificate waits for a restart",
        "services/http/tls.py",
        "self.context.load_cert_chain(self._files.certificate, self._files.key)\n",
        "",
        TLS,
    ),
    Mutant(
        "a pair that does not fit replaces the one in use",
        "services/http/tls.py",
        "        _context_of(self._files)  #",
        "        #",
        TLS,
    ),
    Mutant(
        "beyond loopback no TLS is needed",
        "services/settings.py",
        "if not is_loopback(self.host) and self.tls_certificate_file is None:",
        "if False:",
        TLS,
    ),
    Mutant(
        "a token crosses the network in the clear",
        "services/settings.py",
        "return named or not is_loopback(self.address(service))",
        "return named",
        TLS,
    ),
)
