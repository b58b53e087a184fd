"""Build the image of deploy/Containerfile by buildah; --try runs a sale in containers of it.

The base is the hub's `python:3.11-slim-bookworm`. Where no registry is reached, it is a base of
Debian bookworm with its own Python, which debootstrap makes. It takes root. Packages come as wheels
that pip finds here, so the build needs no network of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.settings import PROJECT_ROOT

HUB = "docker.io/library/python:3.11-slim-bookworm"
OWN_BASE = "localhost/seckill-base:bookworm"
MIRROR = "http://deb.debian.org/debian"
#: Of both bases; pip downloads for it, whichever Python runs here.
PYTHON = "3.11"
#: A registry that is there answers within this; one that is not would be waited for much longer.
PULL_S = 60.0
#: redis needs this on Python below 3.11.3, as Debian's is; pip does not know that from here.
ALSO = ("async-timeout", "wheel")
#: What no process of ours reads.
NOT_NEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man")
MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its name, and what it says about how it is run."""

    name: str
    size: int
    environment: dict[str, str]
    entrypoint: list[str]
    user: str
    healthcheck: list[str]


def build(name: str, base: str | None) -> Image:
    """Build the image."""
    base = base or _base()
    print(f"building {name} on {base}", flush=True)
    with tempfile.TemporaryDirectory(prefix="seckill-wheels-") as wheels:
        Path(wheels).chmod(0o755)
        _download(Path(wheels))
        _call(
            *("buildah", "build", "--isolation", "chroot", "--format", "docker", "--tag", name),
            *("--build-arg", f"BASE={base}", "--volume", f"{wheels}:/wheels:ro"),
            *("--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/wheels"),
            *("--file", "deploy/Containerfile", "."),
        )
    return inspect(name)


def inspect(name: str) -> Image:
    """Read what an image says about itself."""
    config = json.loads(_call("buildah", "inspect", "--type", "image", name))["Docker"]["config"]
    listed: list[dict[str, Any]] = json.loads(_call("buildah", "images", "--json", name))
    raw = _call("buildah", "images", "--format", "{{.Size}}", name)
    return Image(
        name=listed[0]["names"][0],
        size=_bytes(raw.strip()),
        environment=dict(entry.split("=", 1) for entry in config["Env"]),
        entrypoint=config["Entrypoint"],
        user=config["User"],
        healthcheck=config["Healthcheck"]["Test"][1:],
    )


def _bytes(shown: str) -> int:
    number, unit = shown.split()
    return int(float(number) * {"KB": 10**3, "MB": 10**6, "GB": 10**9}[unit])


def _base() -> str:
    """Return the hub's base, or ours if there is no hub."""
    pull = ["buildah", "pull", "--quiet", HUB]
    try:
        if not subprocess.run(pull, capture_output=True, timeout=PULL_S, check=False).returncode:
            return HUB
    except subprocess.TimeoutExpired:
        pass
    print(f"{HUB} cannot be had; the base is Debian's", flush=True)
    found = ["buildah", "inspect", "--type", "image", OWN_BASE]
    if subprocess.run(found, capture_output=True, check=False).returncode:
        _make_base()
    return OWN_BASE


def _make_base() -> None:
    """Make a base of Debian with its Python."""
    with tempfile.TemporaryDirectory(prefix="seckill-base-") as folder:
        root = Path(folder) / "root"
        include = "--include=ca-certificates,python3,python3-venv"
        _call("debootstrap", "--variant=minbase", include, "bookworm", str(root), MIRROR)
        for name in NOT_NEEDED:
            shutil.rmtree(root / name, ignore_errors=True)
        container = _call("buildah", "from", "scratch").strip()
        try:
            _call("buildah", "add", "--quiet", container, str(root), "/")
            _call("buildah", "commit", "--quiet", container, OWN_BASE)
        finally:
            _call("buildah", "rm", container)


def _download(wheels: Path) -> None:
    """Download the wheels of our dependencies, and of what builds our own."""
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())
    ours = project["project"]
    wanted = [*ours["dependencies"], *ours["optional-dependencies"]["otel"], *ALSO]
    wanted += project["build-system"]["requires"]
    machine = platform.machine()
    platforms = [f"manylinux_2_{n}_{machine}" for n in range(36, 16, -1)]
    _call(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels)),
        *("--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"),
        *(
            word
            for name in (*platforms, f"manylinux2014_{machine}")
            for word in ("--platform", name)
        ),
        *("--constraint", "constraints.txt", *wanted),
    )


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/image", description=__doc__)
    parser.add_argument("--name", default="localhost/seckill-gateway:dev", help="of the image")
    parser.add_argument("--base", help="an image with Python 3.11 and its module venv")
    parser.add_argument("--try", dest="attempt", action="store_true", help="run a sale in it")
    given = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("only root can build here; elsewhere: docker build -f deploy/Containerfile .")
    missing = [name for name in ("buildah", "debootstrap", "bwrap") if shutil.which(name) is None]
    if missing:
        packages = ["bubblewrap" if name == "bwrap" else name for name in missing]
        _call("sh", "scripts/apt-install", *packages)
    image = build(given.name, given.base)
    print(f"{image.name}: {image.size / MEGABYTE:.0f} MB", flush=True)
    if not given.attempt:
        return 0
    from scripts.image_sale import run

    container = _call("buildah", "from", image.name).strip()
    try:
        root = Path(_call("buildah", "mount", container).strip())
        return asyncio.run(run(image, root))
    finally:
        _call("buildah", "rm", container)


def _call(*argv: str) -> str:
    """Run a command to its end, and return what it prints; show all of it if it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-3_000:]
        raise SystemExit(f"{said}\nscripts/image: failed: {' '.join(argv)}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
