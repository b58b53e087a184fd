"""`GET /docs`: the contract to read and try in a browser that reaches nothing but this gateway."""

from __future__ import annotations

import gzip
import re
from hashlib import sha256
from importlib.resources import files

from aiohttp import web

from gateway.http.contract import Parameter, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.responses import COMMON

#: The page and what it loads, by name; read once at start. What is loaded is there compressed, too:
#: a hundred bytes that ask for it would else bring 1.7 MB, for which grabs would wait.
FILES = web.AppKey("docs_files", dict[str, bytes])

#: What the page loads, and what each is.
ASSETS = {
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
PAGE = "index.html"

#: The page runs its own scripts alone, and talks to this gateway alone. Swagger UI's style sheet
#: holds pictures as data.
SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    **COMMON,
    "Cache-Control": "no-cache",
    "Content-Security-Policy": SECURITY_POLICY,
}
#: The page asks for them by their digest, so that a copy never goes stale.
_ASSET_HEADERS = {
    **COMMON,
    "Cache-Control": "public, max-age=31536000, immutable",
    "Vary": "Accept-Encoding",
}

ASSET = Parameter(
    "asset",
    "Names the file.",
    re.compile(rf"({'|'.join(map(re.escape, ASSETS))})\Z"),
    "swagger-ui.css",
    (Problem.NOT_FOUND,),
)


def load() -> dict[str, bytes]:
    """Read the files, and name the assets' digest in the page."""
    folder = files("gateway") / "static" / "docs"
    loaded = {name: (folder / name).read_bytes() for name in (*ASSETS, PAGE)}
    digest = sha256(b"".join(loaded[name] for name in ASSETS)).hexdigest()[:16]
    loaded[PAGE] = loaded[PAGE].replace(b"DIGEST", digest.encode())
    return loaded | {f"{name}.gz": gzip.compress(loaded[name], mtime=0) for name in ASSETS}


@operation(
    "Read this contract in a browser",
    ResponseSpec(200, "A page.", "", content_type="text/html", headers=["Cache-Control"]),
    tag="docs",
)
async def show_docs(request: web.Request) -> web.Response:
    """Answer with the page."""
    return web.Response(
        body=request.app[FILES][PAGE],
        content_type="text/html",
        charset="utf-8",
        headers=_PAGE_HEADERS,
    )


@operation(
    "Load a file of that page",
    ResponseSpec(200, "The file.", "", content_type="text/*", headers=["Cache-Control"]),
    tag="docs",
    parameters=[ASSET],
)
async def load_asset(request: web.Request) -> web.Response:
    """Answer with a script or the style sheet."""
    name = request.match_info["asset"]
    if name not in ASSETS:
        raise Refused(Problem.NOT_FOUND)
    body, headers = request.app[FILES][name], _ASSET_HEADERS
    if "gzip" in request.headers.get("Accept-Encoding", "").lower():
        body = request.app[FILES][f"{name}.gz"]
        headers = {**headers, "Content-Encoding": "gzip"}
    return web.Response(body=body, content_type=ASSETS[name], charset="utf-8", headers=headers)
