"""The numbered SQL files are one present: a reader finds each function in one place."""

from __future__ import annotations

import re
from collections import Counter
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

#: Replaced by a later file under their names: a process of the version before calls them while it
#: is upgraded, and must not give back what went back in parts already.
REPLACED = {"begin_refund_part", "begin_refunds", "refund_to_wallets", "refund_card_payments"}


def test_each_function_stands_once() -> None:
    texts = [f.read_text() for f in files("seckill.sql").iterdir() if re.match(r"\d+_", f.name)]
    made = Counter(name for text in texts for name in re.findall(r"REPLACE FUNCTION (\w+)\(", text))
    assert "place" in made
    assert {name for name, count in made.items() if count > 1} == REPLACED


def test_no_numbered_file_changes_once_it_is_there() -> None:
    """A database that has applied another text of it would be refused for ever.

    A new file gets its line by `sha256sum 00*.sql` in the folder of the files.
    """
    numbered = [f for f in files("seckill.sql").iterdir() if re.match(r"\d+_", f.name)]
    made = {f.name: sha256(f.read_bytes()).hexdigest() for f in numbered}
    lines = Path(__file__).with_name("digests.txt").read_text().splitlines()
    kept = {name: digest for digest, name in map(str.split, lines)}
    assert made == kept
