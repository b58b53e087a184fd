"""Files in `<home>/prometheus` that tell Prometheus (file_sd) where processes have their metrics.

A process keeps its name when it gets another port, so its series go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


def write_targets(home: Path, kind: str, admin_urls: Mapping[str, str]) -> None:
    """Write the processes of a kind (`gateway`, `consumers`), by name; none: remove the file."""
    path = home / "prometheus" / f"{kind}.json"
    if not admin_urls:
        path.unlink(missing_ok=True)
        return
    targets = [
        {
            "targets": [urlsplit(url).netloc],
            "labels": {"job": f"seckill-{kind}", "instance": name},
        }
        for name, url in admin_urls.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".new")  # Prometheus reads *.json as soon as it changes
    written.write_text(json.dumps(targets, indent=1) + "\n")
    written.replace(path)
