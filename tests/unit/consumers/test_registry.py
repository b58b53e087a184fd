"""Every file of roles/ is a role in the table, and each role has a file of its name."""

from __future__ import annotations

import pkgutil

from consumers import roles
from consumers.registry import BUILDERS

#: They run as parts of reconcile.
PARTS = {"archive", "fence", "restore_watch", "survey"}


def test_each_file_is_a_line_of_the_table() -> None:
    files = {module.name for module in pkgutil.iter_modules(roles.__path__)}
    assert files - PARTS == BUILDERS.keys()


def test_each_line_of_the_table_names_its_file() -> None:
    for name, build in BUILDERS.items():
        assert (build.__module__, build.__name__) == (f"consumers.roles.{name}", "build")
