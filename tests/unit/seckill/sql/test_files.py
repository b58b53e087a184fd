"""The numbered SQL files are one present: a reader finds each function in one place."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files

#: Replaced by a later file under their names: a process of the version before calls them while it
#: is upgraded, and must not give back what went back in parts already.
REPLACED = {"begin_refund_part", "begin_refunds", "refund_to_wallets", "refund_card_payments"}


def test_each_function_stands_once() -> None:
    texts = [f.read_text() for f in files("seckill.sql").iterdir() if re.match(r"\d+_", f.name)]
    made = Counter(name for text in texts for name in re.findall(r"REPLACE FUNCTION (\w+)\(", text))
    assert "place" in made
    assert {name for name, count in made.items() if count > 1} == REPLACED
