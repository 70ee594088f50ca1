"""Where a service listens and whom it lets in, from its region's settings; refused in one line if that is not safe."""

from __future__ import annotations

from pipelines.errors import MisconfiguredError
from services.http.callers import Callers
from services.http.server import Listen
from services.http.tls import ServerTls, TlsFiles
from services.settings import Settings


def listen_of(settings: Settings, region: str, service: str) -> Listen:
    """Where a service of a region is asked, and by whom.

    Raises:
        MisconfiguredError: nobody is named who may ask, a file cannot be used, or others can read a secret.
    """
    here = settings.region(region)
    api = here.api
    if api.callers_file is None:
        raise MisconfiguredError(
            f"regions.{region}.api.callers_file is missing: it names who may ask this {service}, on loopback too; "
            "`farside token` makes it"
        )
    tls = None
    if api.tls_certificate_file is not None and api.tls_key_file is not None:
        tls = ServerTls(TlsFiles(api.tls_certificate_file, api.tls_key_file))
    return Listen(
        host=api.host,
        port=getattr(here.ports, service),
        callers=Callers(api.callers_file),
        names=tuple({api.host, api.address(service)}),
        tls=tls,
    )
