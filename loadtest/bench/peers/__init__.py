"""The servers that `make bench` compares ours with: what others would write for the same work.

`servers.py` starts and stops each; begin there. `nginx.conf` and `nginx_grabs.lua` are nginx with
Lua, which calls `one_grab.lua` once a request: the work of lua/grab.lua for one grab. `hello.py`
is a bare aiohttp application. A test compares one_grab.lua with grab.lua.
"""
