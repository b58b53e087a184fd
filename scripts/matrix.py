"""Run the acceptance tests on the stores of Debian trixie, which are newer than those of bookworm.

RabbitMQ 4 and PostgreSQL 17 with Redis 8, and again with Valkey 8, each time on empty stores. They
run in a root of their own (chroot) and listen on the loopback interface. The tests run here; they
get the addresses as those of given stores. It takes root, a gigabyte of disk, two minutes for the
root, which is kept, and the time of the tests.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from config.settings import PROJECT_ROOT
from ops.processes.ports import LOOPBACK, free_port
from ops.stack.servers.server import configuration

SUITE = "trixie"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("rabbitmq-server", "redis-server", "valkey-server", "postgresql-17")
CACHES = {"redis": "redis", "valkey": "valkey"}
#: RabbitMQ takes half a minute on a machine that is busy.
START_S = 120.0
#: Where the servers of a run have their data, in the root.
DATA = Path("/srv/matrix")


class Root:
    """A root of Debian, and the servers that run in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self) -> None:
        """Make the root, unless it is there."""
        if self._path.exists():
            return
        print(f"making a root of Debian {SUITE} in {self._path}", flush=True)
        if shutil.which("debootstrap") is None:
            _call("sh", "scripts/apt-install", "debootstrap")
        new = self._path.with_name(f"{self._path.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        options = "--variant=minbase", "--include=ca-certificates"
        _call("debootstrap", *options, SUITE, str(new), MIRROR)
        # Debian asks this file before it starts a daemon; 101 means "no".
        policy = new / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        install = "apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES
        _call("chroot", str(new), "env", "DEBIAN_FRONTEND=noninteractive", *install)
        new.rename(self._path)

    def lock(self) -> None:
        """Keep other runs out until this process ends: they would share its data."""
        self._locked = os.open(self._path, os.O_RDONLY)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = "another run uses it: wait for its end, or give another --root"
            raise SystemExit(f"scripts/matrix: {self._path}: {text}") from None

    def mount(self) -> None:
        """Mount /proc, which Erlang reads; this process has a mount namespace of its own."""
        _call("mount", "-t", "proc", "proc", str(self._path / "proc"))

    def versions(self) -> str:
        """Return the versions of the servers."""
        query = "dpkg-query", "-W", "-f", "${Package} ${Version}\n", *PACKAGES
        return _call("chroot", str(self._path), *query)

    def directory(self, name: str, user: str) -> Path:
        """Make an empty directory for a server, and return its path in the root."""
        inside = DATA / name
        outside = self.outside(inside)
        shutil.rmtree(outside, ignore_errors=True)
        outside.mkdir(parents=True)
        self._give(outside, user)
        return inside

    def write(self, file: Path, user: str, text: str) -> None:
        """Write a file of a server."""
        outside = self.outside(file)
        outside.write_text(text)
        self._give(outside, user)

    def outside(self, inside: Path) -> Path:
        """Return the path on this machine of a path in the root."""
        return self._path / inside.relative_to("/")

    def command(self, user: str, argv: Sequence[str], env: Mapping[str, str]) -> list[str]:
        """Return the command that runs another as a user in the root, with this environment."""
        values = [f"{name}={value}" for name, value in env.items()]
        path = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"
        inside = ["/usr/bin/env", "-i", path, *values, *argv]
        return ["chroot", f"--userspec={user}:{user}", str(self._path), *inside]

    @contextmanager
    def running(self, user: str, argv: Sequence[str], **env: str) -> Iterator[None]:
        """Run a server for as long as the block lasts."""
        log = self.outside(DATA / f"{Path(argv[0]).name}.log")
        with log.open("w") as output:
            process = subprocess.Popen(
                self.command(user, argv, env), stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(START_S)
            except subprocess.TimeoutExpired:
                process.kill()

    def _give(self, outside: Path, user: str) -> None:
        inside = f"/{outside.relative_to(self._path)}"
        _call("chroot", str(self._path), "chown", user, inside)


def start_cache(root: Root, stack: ExitStack, name: str, password: str) -> str:
    """Start Redis or Valkey, and return its address."""
    port, home = free_port(), root.directory(name, name)
    own = f"port {port}", f"dir {home}", f"requirepass {password}"
    root.write(home / "server.conf", name, configuration("redis.conf", *own))
    server = [f"/usr/bin/{name}-server", str(home / "server.conf")]
    stack.enter_context(root.running(name, server))
    return f"redis://default:{password}@{LOOPBACK}:{port}/0"


def start_rabbitmq(root: Root, stack: ExitStack, password: str) -> str:
    """Start RabbitMQ with a port mapper of its own, and return its address."""
    user = "rabbitmq"
    port, mapper_port, home = free_port(), free_port(), root.directory(user, user)
    own = f"listeners.tcp.1 = {LOOPBACK}:{port}", "default_user = seckill"
    text = configuration("rabbitmq.conf", *own, f"default_pass = {password}")
    root.write(home / "rabbitmq.conf", user, text)
    root.write(home / "enabled_plugins", user, "[].\n")
    mapper = ["/usr/bin/epmd", "-port", str(mapper_port), "-address", LOOPBACK]
    stack.enter_context(root.running(user, mapper))
    server = root.running(
        user,
        ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
        RUNNING_UNDER_SYSTEMD="1",  # the script then replaces itself by the server
        HOME=str(home),
        RABBITMQ_NODENAME="matrix@localhost",
        RABBITMQ_DIST_PORT=str(free_port()),
        ERL_EPMD_PORT=str(mapper_port),
        ERL_EPMD_ADDRESS=LOOPBACK,
        ERL_AFLAGS="-start_epmd false",
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}",
        RABBITMQ_MNESIA_BASE=str(home / "data"),
        RABBITMQ_GENERATED_CONFIG_DIR=str(home / "generated"),
        RABBITMQ_LOG_BASE=str(home),
        RABBITMQ_ENABLED_PLUGINS_FILE=str(home / "enabled_plugins"),
        RABBITMQ_CONFIG_FILE=str(home / "rabbitmq.conf"),
        RABBITMQ_CONF_ENV_FILE=os.devnull,
    )
    stack.enter_context(server)
    return f"amqp://seckill:{password}@{LOOPBACK}:{port}/"


def start_postgresql(root: Root, stack: ExitStack, password: str) -> str:
    """Start PostgreSQL with a database, and return its address."""
    user, binaries = "postgres", "/usr/lib/postgresql/17/bin"
    port, home = free_port(), root.directory("postgresql", user)
    data = home / "data"
    root.write(home / "password", user, password)
    initdb = [
        f"{binaries}/initdb",
        *("--pgdata", str(data), "--username", "seckill", "--pwfile", str(home / "password")),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
    ]
    _call(*root.command(user, initdb, {}))
    # The root has no /dev/shm.
    own = f"port = {port}", "dynamic_shared_memory_type = mmap"
    root.write(data / "postgresql.conf", user, configuration("postgresql.conf", *own))
    stack.enter_context(root.running(user, [f"{binaries}/postgres", "-D", str(data)]))
    return f"postgresql://seckill:{password}@{LOOPBACK}:{port}/postgres"


def wait_for(url: str) -> None:
    """Return when something listens at an address."""
    port = int(url.rpartition(":")[2].partition("/")[0])
    until = time.monotonic() + START_S
    listening = f":{port:04X} 00000000:0000 0A"
    while listening not in Path("/proc/net/tcp").read_text():
        if time.monotonic() > until:
            raise SystemExit(f"no server listens on port {port} after {START_S:g} s")
        time.sleep(0.2)  # between two looks


def run_tests(root: Root, cache: str, tests: Sequence[str]) -> int:
    """Run the tests once on empty stores, and return pytest's exit code."""
    password = secrets.token_hex(16)
    with ExitStack() as stack:
        stores = {
            "SECKILL_REDIS_URL": start_cache(root, stack, cache, password),
            "SECKILL_AMQP_URL": start_rabbitmq(root, stack, password),
            "SECKILL_POSTGRES_DSN": start_postgresql(root, stack, password),
        }
        for url in stores.values():
            wait_for(url)
        pytest = [sys.executable, "-m", "pytest", "-q", "-n0", *tests]
        return subprocess.run(pytest, env={**os.environ, **stores}, check=False).returncode


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/matrix", description=__doc__)
    parser.add_argument("--root", type=Path, default=PROJECT_ROOT / ".seckill-matrix" / SUITE)
    parser.add_argument("--cache", choices=CACHES, action="append", help="only with this one")
    parser.add_argument("tests", nargs="*", default=["tests/acceptance"], help="for pytest")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are stopped on the way out
    if os.geteuid() != 0:
        parser.error("only root can make a root and start servers in it")
    root = Root(given.root.absolute())
    root.make()
    root.lock()
    root.mount()
    print(root.versions(), flush=True)
    codes = {}
    for cache in given.cache or CACHES:
        print(f"== {cache}, RabbitMQ, PostgreSQL of {SUITE}", flush=True)
        codes[cache] = run_tests(root, cache, given.tests)
    print(*(f"{cache}: pytest exit {code}" for cache, code in codes.items()), sep="\n")
    return max(codes.values())


def _call(*argv: str) -> str:
    """Run a command to its end, and return what it prints; show that if it fails."""
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{done.stdout[-2_000:]}\nscripts/matrix: failed: {' '.join(argv)}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
