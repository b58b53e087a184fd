"""`python hello.py PORT`: a bare aiohttp application on uvloop that answers `hello` to `/`.

What aiohttp itself costs, and so the most that any application on it can answer.
"""

from __future__ import annotations

import sys

import uvloop
from aiohttp import web


async def hello(_: web.Request) -> web.Response:
    """Answer."""
    return web.Response(text="hello")


def main() -> None:
    """Serve until SIGTERM."""
    app = web.Application()
    app.router.add_route("GET", "/", hello)
    app.router.add_route("POST", "/", hello)
    web.run_app(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        shutdown_timeout=1,  # no client waits when a benchmark ends
        loop=uvloop.new_event_loop(),
    )


if __name__ == "__main__":
    main()
