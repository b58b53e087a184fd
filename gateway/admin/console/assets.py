"""The page of the console and what it loads: read once at start, compressed, never stale."""

from __future__ import annotations

import gzip
from hashlib import sha256
from importlib.resources import files

from aiohttp import web

from gateway.http.problems import Problem, Refused
from gateway.http.responses import COMMON

PAGE = "index.html"
#: What each kind of file is; files of other kinds (the licence) are not served.
TYPES = {"js": "text/javascript", "css": "text/css"}
#: The page runs its own scripts alone, and talks to this gateway alone. The icon is in the page.
SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    **COMMON,
    "Cache-Control": "no-cache",
    "Content-Security-Policy": SECURITY_POLICY,
}
#: Their address has their digest in it.
_FILE_HEADERS = {
    **COMMON,
    "Cache-Control": "public, max-age=31536000, immutable",
    "Vary": "Accept-Encoding",
}


class ConsoleFiles:
    """The files of the console."""

    def __init__(self) -> None:
        folder = files("gateway") / "static" / "console"
        plain = {
            name: (folder / name).read_bytes()
            for name in sorted(each.name for each in folder.iterdir())
            if name.rpartition(".")[2] in TYPES
        }
        #: Scripts import each other by names beside their own, so one digest is for all of them.
        self._digest = sha256(b"".join(plain.values())).hexdigest()[:16]
        page = (folder / PAGE).read_bytes()
        self._page = page.replace(b"DIGEST", self._digest.encode())
        self._files = {name: (body, gzip.compress(body, mtime=0)) for name, body in plain.items()}

    def page(self) -> web.Response:
        """Return the page."""
        return web.Response(
            body=self._page, content_type="text/html", charset="utf-8", headers=_PAGE_HEADERS
        )

    def file(self, request: web.Request) -> web.Response:
        """Return the file that a request names."""
        name = request.match_info["name"]
        if request.match_info["digest"] != self._digest or name not in self._files:
            raise Refused(Problem.NOT_FOUND)
        plain, compressed = self._files[name]
        body, headers = plain, _FILE_HEADERS
        if "gzip" in request.headers.get("Accept-Encoding", "").lower():
            body, headers = compressed, {**headers, "Content-Encoding": "gzip"}
        kind = TYPES[name.rpartition(".")[2]]
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)


FILES = web.AppKey("console_files", ConsoleFiles)
