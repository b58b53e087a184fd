"""The stack as an operator meets it: real processes, started and killed through the command line.

Every test begins with `running`, which starts the stack of this module unless it runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path

import asyncpg
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotConnected

from config.settings import PROJECT_ROOT
from ops.processes.home import supervisor
from ops.processes.ports import free_port
from ops.stack.services import running_services, temporary_home

#: Longest wait for something that takes a second on an idle machine, and a broker's stop.
PATIENCE_S = 30.0


def eventually(check: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not check():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.05)  # between looks at a condition


def seckill(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *words],
        cwd=PROJECT_ROOT,
        env={**os.environ, "SECKILL_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def status(home: Path) -> dict[str, dict[str, object]]:
    """Every running part of the stack by name."""
    shown = json.loads(seckill(home, "status", "--json").stdout)
    return {part["name"]: part for part in [*shown["services"], *shown["processes"]]}


def pids(home: Path) -> set[int]:
    return {int(str(part["pid"])) for part in status(home).values() if part["pid"]}


def pool_of(home: Path) -> int | None:
    """The pid of the pool manager, or None."""
    pool = json.loads(seckill(home, "status", "--json").stdout)["pool"]
    return pool and pool["pid"]


def env(home: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads(seckill(home, "env", "--json").stdout)
    return found


def redis(home: Path) -> Redis:
    return Redis.from_url(env(home)["SECKILL_REDIS_URL"])


def processes_of(home: Path) -> list[str]:
    """Every process whose command line, environment or directory names `home`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            traces = [(process / name).read_bytes() for name in ("cmdline", "environ")]
            traces.append(bytes((process / "cwd").readlink()))
        except OSError:  # ended meanwhile
            continue
        if any(str(home).encode() in trace for trace in traces):
            found.append(f"{process.name} {traces[0].decode().replace(chr(0), ' ')}")
    return found


def broker_directory(home: Path) -> Path:
    """Return where the broker has its files: outside a home whose path it cannot work with."""
    home_id = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    return Path(f"/var/tmp/seckill-rabbitmq-{home_id}")  # noqa: S108 - where ops/stack puts it


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home with quotes, a space and other signs that configuration files know in its name."""
    with temporary_home() as directory:
        home = directory / 'Bob\'s "stack" (2): #1'
        home.mkdir(mode=0o755)
        yield home
        seckill(home, "down")
        shutil.rmtree(broker_directory(home))


@pytest.fixture
def running(home: Path) -> Path:
    if supervisor(home) is None:
        started = seckill(home, "up", "--detach", "--workers", "1")
        assert started.returncode == 0, started.stderr
    return home


def test_up_shows_one_entry_for_each_process(running: Path) -> None:
    parts = status(running)

    assert {name: part.get("role") for name, part in parts.items()} == {
        "redis": None,
        "rabbitmq": None,
        "postgresql": None,
        "gateway-1": "gateway",
        "consumers-1": "consumers",
    }
    assert len(pids(running)) == 5
    for worker in ("gateway-1", "consumers-1"):
        host, _, port = str(parts[worker]["admin_url"]).removeprefix("http://").partition(":")
        admin = HTTPConnection(host, int(port), timeout=PATIENCE_S)
        admin.request("GET", "/metrics")
        assert admin.getresponse().status == 200
        admin.close()


def metrics_of(address: str) -> str:
    host, _, port = address.partition(":")
    admin = HTTPConnection(host, int(port), timeout=PATIENCE_S)
    admin.request("GET", "/metrics")
    text = admin.getresponse().read().decode()
    admin.close()
    return text


def test_prometheus_finds_each_process_and_all_that_rules_and_dashboards_read(
    running: Path,
) -> None:
    targets = [
        target
        for file in (running / "prometheus").glob("*.json")
        for target in json.loads(file.read_text())
    ]
    assert {(t["labels"]["job"], t["labels"]["instance"]) for t in targets} == {
        ("seckill-gateway", "gateway-1"),
        ("seckill-consumers", "consumers-1"),
    }
    served = "".join(metrics_of(target["targets"][0]) for target in targets)
    names = set(re.findall(r"(?m)^# TYPE (\w+)", served))
    read = "".join(
        path.read_text()
        for path in (PROJECT_ROOT / "deploy").glob("*/*")
        if path.name == "rules.yml" or path.parent.name == "grafana"
    )
    wanted = {
        re.sub("_(bucket|count|sum)$", "", name)
        for name in re.findall(r"\b(?:seckill|process)_\w+", read)
    }
    assert wanted - names == set()


def test_stores_keep_no_order_that_is_not_on_disk(running: Path) -> None:
    with redis(running) as client:
        config = client.config_get("append*", "maxmemory-policy", "save")
    assert config["appendonly"] == "yes"
    assert config["appendfsync"] == "always"
    assert config["maxmemory-policy"] == "noeviction"
    assert config["save"] == ""

    async def show() -> list[str]:
        connection = await asyncpg.connect(env(running)["SECKILL_POSTGRES_DSN"])
        try:
            return [
                await connection.fetchval(f"SHOW {name}")
                for name in ("fsync", "synchronous_commit", "full_page_writes")
            ]
        finally:
            await connection.close()

    assert asyncio.run(show()) == ["on", "on", "on"]


def test_secrets_are_for_their_owner_alone(running: Path) -> None:
    files = [running / name for name in ("secrets.json", "settings.json", "redis/redis.conf")]
    for file in (*files, broker_directory(running) / "rabbitmq.conf"):
        assert file.stat().st_mode & 0o077 == 0, file


def test_the_cookie_of_erlang_is_ours_and_root_does_not_run_the_broker(running: Path) -> None:
    process = Path(f"/proc/{status(running)['rabbitmq']['pid']}")
    lines = (process / "environ").read_text().split("\0")
    cookie = Path(next(line for line in lines if line.startswith("HOME="))[5:], ".erlang.cookie")

    assert re.fullmatch("[0-9a-f]{64}", cookie.read_text())
    assert cookie.stat().st_mode & 0o777 == 0o600
    assert cookie.owner() == process.owner() != "root"


def test_env_is_all_that_the_admin_api_needs(running: Path) -> None:
    shell = (
        'eval "$("$0" -m ops.cli env)"; printf "%s %s" "$SECKILL_ADMIN_URL" "$SECKILL_ADMIN_TOKEN"'
    )
    url, token = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable],
        cwd=PROJECT_ROOT,
        env={**os.environ, "SECKILL_HOME": str(running)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    admin = HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
    admin.request("GET", "/admin/sales", headers={"Authorization": f"Bearer {token}"})
    assert admin.getresponse().status == 200
    admin.close()


def test_second_up_is_refused_in_one_line(running: Path) -> None:
    refused = seckill(running, "up")

    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "already runs" in refused.stderr


def test_a_hangup_ends_nothing(running: Path) -> None:
    manager, stack = pool_of(running), supervisor(running)
    workers = {name: part["pid"] for name, part in status(running).items() if "role" in part}

    for pid in (stack, manager, *workers.values()):
        os.kill(int(str(pid)), signal.SIGHUP)

    for name in workers:
        log = running / "logs" / f"{name}.log"
        eventually(lambda log=log: "SIGHUP" in log.read_text(), f"{log} notes the signal")
    parts = status(running)
    assert {name: parts[name]["pid"] for name in workers} == workers
    assert (pool_of(running), supervisor(running)) == (manager, stack)


def test_up_after_down_in_a_shell_with_the_addresses_of_before(running: Path) -> None:
    """The environment then gives addresses of stores that the stack itself starts."""
    shell = """
        eval "$("$0" -m ops.cli env)" && "$0" -m ops.cli down &&
        "$0" -m ops.cli up --detach --workers 1 && "$0" -m ops.cli sale list"""
    done = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable],
        cwd=PROJECT_ROOT,
        env={**os.environ, "SECKILL_HOME": str(running)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_killed_redis_comes_back_on_the_same_port_with_its_data(running: Path) -> None:
    with redis(running) as client:
        client.set("kept", "yes")
        before = status(running)["redis"]

        os.kill(int(str(before["pid"])), signal.SIGKILL)

        def is_back() -> bool:
            try:
                return client.get("kept") == b"yes"
            except NotConnected:
                return False

        eventually(lambda: status(running)["redis"]["pid"] not in (None, before["pid"]), "new pid")
        eventually(is_back, "the value that was written before the kill")
    assert status(running)["redis"]["address"] == before["address"]


def test_killed_worker_is_started_again(running: Path) -> None:
    before = status(running)["gateway-1"]["pid"]

    os.kill(int(str(before)), signal.SIGKILL)

    eventually(lambda: status(running)["gateway-1"]["pid"] not in (None, before), "a new gateway")


def test_killed_pool_manager_is_started_again_with_its_workers(running: Path) -> None:
    assert seckill(running, "pool", "scale", "place_orders=2").returncode == 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        before = pool_of(running)

        os.kill(before, number)

        eventually(lambda last=before: pool_of(running) not in (None, last), "a new manager")
        eventually(lambda: "consumers-2" in status(running), "as many workers as before")
    assert seckill(running, "pool", "scale", "place_orders=1").returncode == 0


def test_stopped_pool_is_left_alone_until_it_is_started_and_is_guarded_again(
    running: Path,
) -> None:
    stopped = seckill(running, "pool", "stop")
    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    assert status(running).keys() == {"redis", "rabbitmq", "postgresql", "gateway-1"}
    eventually(lambda: "is left alone" in (running / "logs/up.log").read_text(), "the log names it")
    assert pool_of(running) is None
    missing = seckill(running, "status")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "pool: not running; start it: seckill pool start --detach" in missing.stderr

    started = seckill(running, "pool", "start", "--detach", "--consumers", "2")
    assert started.returncode == 0, started.stderr
    assert seckill(running, "status").returncode == 0
    eventually(lambda: "consumers-2" in status(running), "consumers")
    before = pool_of(running)
    refused = seckill(running, "pool", "start", "--detach")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "already runs" in refused.stderr

    os.kill(before, signal.SIGKILL)
    eventually(lambda: pool_of(running) not in (None, before), "a new manager")

    assert seckill(running, "pool", "stop").returncode == 0
    by_hand = seckill(running, "pool", "start")  # without --detach the supervisor runs it, too
    assert (by_hand.returncode, by_hand.stdout.count("\n")) == (0, 1), by_hand.stderr
    assert pool_of(running)
    assert seckill(running, "down").returncode == 0
    assert processes_of(running) == []


def test_killed_supervisor_leaves_nothing_and_the_next_up_works(running: Path) -> None:
    with redis(running) as client:
        client.set("outlives", "the supervisor")
    pid = supervisor(running)
    assert pid is not None

    os.kill(pid, signal.SIGKILL)

    eventually(lambda: not processes_of(running), "nothing of the stack left")
    assert seckill(running, "status").returncode == 1
    assert seckill(running, "env").returncode == 1  # the file of the dead stack does not count

    assert seckill(running, "up", "--detach", "--workers", "1").returncode == 0
    with redis(running) as client:
        assert client.get("outlives") == b"the supervisor"


def test_down_leaves_nothing_behind(running: Path) -> None:
    recorded = pids(running)
    assert processes_of(running)

    stopped = seckill(running, "down")

    assert (stopped.returncode, stopped.stdout) == (0, "stopped\n")
    assert not [pid for pid in recorded if Path(f"/proc/{pid}").exists()]
    assert processes_of(running) == []
    assert not (running / "settings.json").exists()
    again = seckill(running, "down")
    assert again.returncode == 0
    assert "nothing runs" in again.stdout


async def test_stores_survive_a_kill_and_a_pause() -> None:
    with temporary_home() as home:
        async with running_services(home) as services:
            connection = await asyncpg.connect(services.postgres_dsn)
            await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")

            for name in ("postgresql", "rabbitmq"):
                await services.kill(name)
                assert services.pid(name) is None
                await services.start(name)  # returns only when it answers again

            connection = await asyncpg.connect(services.postgres_dsn)
            assert await connection.fetchval("SELECT one FROM kept") == 1
            services.pause("postgresql")
            with pytest.raises(TimeoutError):
                await asyncpg.connect(services.postgres_dsn, timeout=0.2)
            services.resume("postgresql")
            await connection.close()
        assert processes_of(home) == []


def python_for(user: str) -> dict[str, str] | None:
    """Find an interpreter that `user` may run, with our packages: the venv's or the system's."""
    packages = os.pathsep.join([str(PROJECT_ROOT), *(p for p in sys.path if "-packages" in p)])
    same_version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (sys.executable, f"/usr/local/bin/{same_version}", f"/usr/bin/{same_version}"):
        command = [python, "-c", "import ops.cli, asyncpg, hiredis, redis.asyncio"]
        environment = {"PYTHONPATH": packages}
        try:
            subprocess.run(
                command, user=user, cwd="/", env=environment, check=True, capture_output=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return {"python": python, **environment}
    return None


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_can_run_it() -> None:
    found = python_for("nobody")
    if found is None:
        pytest.skip("nobody may not read this interpreter, its packages or the checkout")
    with temporary_home() as home:
        shutil.chown(home, "nobody")

        def run(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [found["python"], "-m", "ops.cli", *words],
                user="nobody",
                group="nogroup",
                extra_groups=[],
                cwd="/",
                env={
                    "PATH": "/usr/local/bin:/usr/bin:/bin",
                    "HOME": str(home),
                    "SECKILL_HOME": str(home / "data"),
                    "PYTHONPATH": found["PYTHONPATH"],
                },
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )

        try:
            up = run("up", "--detach", "--workers", "1")
            assert up.returncode == 0, up.stderr
            owners = {Path(f"/proc/{pid}").owner() for pid in pids(home / "data")}
            assert owners == {"nobody"}
        finally:
            down = run("down")
        assert (down.returncode, down.stdout) == (0, "stopped\n")
        assert processes_of(home) == []


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("SECKILL_REDIS_URL", "redis://127.0.0.1:{port}/0"),
        ("SECKILL_AMQP_URL", "amqp://u:p@127.0.0.1:{port}/"),
        ("SECKILL_POSTGRES_DSN", "postgresql://u:p@127.0.0.1:{port}/x"),
    ],
)
def test_up_with_a_store_that_does_not_answer_is_one_line_naming_the_setting(setting, url):
    given = {setting: url.format(port=free_port())}
    with temporary_home() as home:
        done = subprocess.run(
            [sys.executable, "-m", "ops.cli", "up"],
            cwd=PROJECT_ROOT,
            env={**os.environ, "SECKILL_HOME": str(home), **given},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "does not answer" in line
    assert setting in line
