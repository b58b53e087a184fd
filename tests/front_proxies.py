"""nginx and HAProxy with the configurations of deploy/proxy, as processes of a test.

if line := NGINX.missing():
    ...  # what this machine lacks, and what to type
async with in_front(NGINX, home, gateways) as url:
    ...
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from config.settings import PROJECT_ROOT
from ops.processes.child import Child, Spec
from ops.processes.ports import LOOPBACK, free_port
from ops.stack.servers.server import until_answers
from tests.processes import Process

CONFIGURATIONS = PROJECT_ROOT / "deploy/proxy"
#: The ports of the gateways in the files: public, and admin.
GATEWAYS = [(8091, 8191), (8092, 8192)]
#: nginx makes these directories at start; those that are compiled in are root's.
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """A proxy to put before gateways."""

    name: str
    file: str
    #: The line with which it listens in its file, and what it is in a test.
    listen: tuple[str, str]
    #: What follows the program's name; `@file@` is the configuration, `@home@` its directory.
    arguments: Sequence[str]
    #: Text of the file that a test replaces, because it names directories of the system.
    own: Mapping[str, str]
    #: Whether it asks the admin ports if a gateway is ready.
    asks_health: bool

    def program(self) -> str | None:
        """Find it; Debian keeps it in sbin, which an ordinary user's path lacks."""
        return shutil.which(self.name, path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))

    def missing(self) -> str:
        """Return what to type to get it, "" if it is there."""
        return "" if self.program() else f"type: sudo apt-get install {self.name}"

    def render(self, home: Path, port: int, gateways: Sequence[Process]) -> str:
        """Return its configuration with a test's ports and directories."""
        written, own = self.listen
        parts = {written: f"{own} {LOOPBACK}:{port}"}
        for (public, admin), gateway in zip(GATEWAYS, gateways, strict=True):
            parts[f"{LOOPBACK}:{public}"] = urlsplit(gateway.url).netloc
            if self.asks_health:
                parts[f" port {admin} "] = f" port {urlsplit(gateway.admin_url).port} "
        parts |= self.own
        text = (CONFIGURATIONS / self.file).read_text()
        for written, value in parts.items():
            assert written in text, f"{self.file} lacks {written!r}"
            text = text.replace(written, value.replace("@home@", str(home)))
        return text


NGINX = FrontProxy(
    "nginx",
    "nginx.conf",
    ("listen 8000", "listen"),
    ["-p", "@home@", "-c", "@file@", "-g", "daemon off;"],
    {
        "/var/log/nginx/error.log": "stderr",
        "/run/nginx.pid": "@home@/nginx.pid",
        "http {\n": "http {\n"
        + "".join(f"  {name}_temp_path @home@/{name};\n" for name in TEMPORARY),
    },
    asks_health=False,
)
HAPROXY = FrontProxy(
    "haproxy",
    "haproxy.cfg",
    ("bind :8000", "bind"),
    ["-db", "-f", "@file@"],
    {
        "maxconn 30000": "maxconn 2000"
    },  # it does not start where it may not open twice as many files
    asks_health=True,
)


@asynccontextmanager
async def in_front(
    proxy: FrontProxy, home: Path, gateways: Sequence[Process]
) -> AsyncIterator[str]:
    """Run it before the two gateways while the block runs; yield its URL."""
    port = free_port()
    file = home / proxy.file
    file.write_text(proxy.render(home, port, gateways))
    url = f"http://{LOOPBACK}:{port}"
    places = {"@file@": str(file), "@home@": str(home)}
    arguments = [places.get(word, word) for word in proxy.arguments]
    spec = Spec(
        name=proxy.name,
        argv=[proxy.program() or proxy.name, *arguments],
        env={"PATH": os.environ["PATH"]},
        cwd=home,
        log=home / f"{proxy.name}.log",
        pid_file=home / f"{proxy.name}-child.pid",
    )
    child = Child(spec, lambda: _answers(url))
    try:
        await child.start()
        yield url
    finally:
        await child.stop()


async def _answers(url: str) -> None:
    async with aiohttp.ClientSession() as client:

        async def ask() -> None:
            async with client.get(f"{url}/v1/sales"):
                pass

        await until_answers(ask, (aiohttp.ClientConnectionError,))
