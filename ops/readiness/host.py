"""What this host itself has to have for a sale: a certificate that lasts, and enough open files."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509

from seckill.registry.processes import ProcessState
from seckill.sales.sales import Sale
from seckill.sales.terms import LATEST

#: A certificate that ends sooner is worth a word: a renewal that failed shows by then.
RENEW = timedelta(days=14)
#: Descriptors of a gateway for all but its clients: stores, files, the admin port.
OWN_FILES = 200

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line: what was found, and what to do about it ("": nothing)."""

    name: str
    status: Status
    said: str
    do: str = ""


def certificate(path: str, sale: Sale) -> Check:
    """Look at the certificate of the gateways' public port, if they have one."""
    if not path:
        said = "no TLS here: whoever ends it in front has the certificate"
        return Check("certificate", "ok", said)
    try:
        chain = x509.load_pem_x509_certificates(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        return Check("certificate", "fail", f"{path}: {error}", "SECKILL_TLS_CERT names the file")
    ends = min(each.not_valid_after_utc for each in chain)
    begins = max(each.not_valid_before_utc for each in chain)
    now = datetime.now(UTC)
    over = max(now, sale.closes_at or sale.opens_at or now)
    pay_by = min(over, LATEST) + timedelta(seconds=sale.payment_window_s)
    renew = "renew it, then SIGHUP to each gateway"
    if begins > now:
        return Check("certificate", "fail", f"{path} is not good before {begins}", renew)
    if ends <= pay_by:
        return Check(
            "certificate", "fail", f"{path} ends at {ends}, before the sale is over", renew
        )
    status: Status = "warn" if ends <= now + RENEW else "ok"
    return Check("certificate", status, f"{path} ends at {ends}", renew if status == "warn" else "")


def open_files(gateways: Sequence[ProcessState], connections_max: int) -> list[Check]:
    """Compare what gateways of this host may open with the connections that they would take."""
    here = [each for each in gateways if each.host == socket.gethostname()]
    limits = {each.pid: limit for each in here if (limit := _files_of(each.pid)) is not None}
    needed = connections_max + OWN_FILES
    low = {pid: limit for pid, limit in limits.items() if limit < needed}
    if low:
        pids = ", ".join(f"{pid} ({limit:,})" for pid, limit in low.items())
        said = f"gateways {pids} may open fewer files than {needed:,}, for their connections"
        do = "LimitNOFILE= of the unit, or ulimit -n; or a lower SECKILL_CONNECTIONS_MAX"
        return [Check("open files", "warn", said, do)]
    if not limits:
        said = "no gateway of this host was looked at"
        return [Check("open files", "ok", said, "run this on the gateways' hosts, too")]
    said = f"{len(limits)} gateways of this host may open {min(limits.values()):,} files each"
    return [Check("open files", "ok", said)]


def _files_of(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/limits").read_text()
    except OSError:  # another host's, or no Linux
        return None
    line = re.search(r"^Max open files +(\d+)", text, re.MULTILINE)
    return int(line[1]) if line else None
