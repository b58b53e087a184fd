"""What a database has of the numbered SQL files, and what is wrong with that.

A process works only on the schema that its own files make. With an older or a newer one it could
write what the others do not expect, so it refuses to start and says what to type.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.errors import NotReady

#: The old numbering of 0.1.0: thirteen files, in which later ones replaced functions of earlier
#: ones. Those files made the same tables as files up to LAST_OF_0_1_0 do now.
OLD_NUMBERING_FILE = "0002_orders.sql"
LAST_OF_0_1_0 = "0008_events.sql"
#: SHA-256 of the lines "NAME CHECKSUM" of those thirteen, sorted by name. A database that was made
#: by other texts may differ in ways that the upgrade does not know, so it is refused.
OLD_NUMBERING_CHECKSUM = "123b15a4a84ac9be47ef1c054d4e63f86add492dbc448daff12d5f4de04b2612"
UPGRADE_FILE = "upgrade_0_1_0.sql"
#: Names in one line; the others are counted.
NAMES_MAX = 6

#: Where tables would be made: a schema of our own may stand before another installation's.
_MIGRATIONS = "SELECT to_regclass(quote_ident(current_schema()) || '.migrations')"
_APPLIED = "SELECT name, checksum FROM migrations"
_LOST = """
SELECT kind, name FROM unnest($1::text[], $2::text[]) AS expected (kind, name)
 WHERE NOT CASE kind
   WHEN 'function' THEN
     -- With EXISTS the planner asks of each function of the server whether it is visible: 0.1 s.
     (SELECT coalesce(bool_or(pg_function_is_visible(oid)), false)
        FROM pg_proc WHERE proname = name::name)
   WHEN 'trigger' THEN EXISTS (SELECT FROM pg_trigger WHERE tgname = name AND tgenabled <> 'D')
   WHEN 'column' THEN
     EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass(split_part(name, '.', 1))
                AND attname = split_part(name, '.', 2) AND NOT attisdropped)
   ELSE to_regclass(name) IS NOT NULL END
"""
#: What makes or drops a table, an index, a function or a trigger.
_STATEMENT = re.compile(
    r"^(CREATE|DROP)(?: OR REPLACE)?(?: UNIQUE)? (TABLE|INDEX|FUNCTION|TRIGGER)"
    r"(?: IF (?:NOT )?EXISTS)? (\w+)(.*?;$)",
    re.MULTILINE | re.DOTALL,
)
_COMMENT = re.compile(r"--.*")
_COLUMN = re.compile(r"^  ([a-z_]+) +[a-z]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One numbered file."""

    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Return what `migrations` has of the text."""
        return sha256(self.text)


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database has of the numbered files."""

    #: Files that are not applied yet.
    missing: tuple[str, ...] = ()
    #: Files that were applied, and that this version does not have.
    unknown: tuple[str, ...] = ()
    #: Files that were applied with another text.
    changed: tuple[str, ...] = ()
    #: What an applied file made, and what is not there: "table orders".
    lost: tuple[str, ...] = ()
    empty: bool = False

    @property
    def foreign(self) -> str | None:
        """Return why this version can do nothing with the database; None if it can."""
        if self.unknown:
            return (
                f"the database has {some(self.unknown)}, which this version does not know; "
                "run the version of seckill that applied it"
            )
        if self.changed:
            return (
                f"{some(self.changed)} has changed since it was applied to this database; "
                "run the version of seckill that applied it, or put the change into a new "
                "numbered file"
            )
        return None

    @property
    def fault(self) -> str | None:
        """Return what is wrong and what to type; None if a process can work on it."""
        if self.foreign:
            return self.foreign
        if self.empty:
            return "the database has no tables yet; type: seckill migrate"
        if self.missing:
            return f"the database lacks {some(self.missing)}; type: seckill migrate"
        if self.lost:
            return (
                f"the database has lost {some(self.lost)}; restore it from a backup, "
                "or by the statement in seckill/sql"
            )
        return None


def numbered_files() -> list[SqlFile]:
    """Return the numbered files in their order."""
    found = [f for f in files("seckill.sql").iterdir() if re.match(r"\d+_.*\.sql$", f.name)]
    return [SqlFile(f.name, f.read_text("utf-8")) for f in sorted(found, key=lambda f: f.name)]


async def look(
    db: asyncpg.Pool | asyncpg.Connection, numbered: Sequence[SqlFile] | None = None
) -> Schema:
    """Compare a database with the numbered files; it needs no right to write.

    Whoever looks often gives the files, which are read otherwise.

    Raise NotReady if the database is another program's.
    """
    known = numbered_files() if numbered is None else numbered
    if await db.fetchval(_MIGRATIONS) is None:
        return compare({}, known)
    try:
        applied = dict(await db.fetch(_APPLIED))
    except asyncpg.UndefinedColumnError as error:
        raise NotReady(
            "the table migrations of this database belongs to another program; "
            "give seckill a database of its own"
        ) from error
    found = compare(applied, known)
    if found.fault:
        return found
    expected = objects_of(tuple(file.text for file in known))
    lost = await db.fetch(_LOST, *map(list, zip(*expected, strict=True))) if expected else []
    return Schema(lost=tuple(f"{kind} {name}" for kind, name in lost))


async def require(db: asyncpg.Pool | asyncpg.Connection) -> None:
    """Raise NotReady, saying what to type, unless the database has the schema of this version.

    Raise Unavailable if the store refuses.
    """
    with database_errors_as_unavailable():
        found = await look(db)
    if found.fault:
        raise NotReady(found.fault)


def compare(applied: Mapping[str, str], numbered: Sequence[SqlFile]) -> Schema:
    """Compare what was applied, by name and checksum, with the numbered files."""
    if OLD_NUMBERING_FILE in applied and is_of_0_1_0(applied):
        later = [file.name for file in numbered if file.name > LAST_OF_0_1_0]
        return Schema(missing=(UPGRADE_FILE, *later))
    known = {file.name: file.checksum for file in numbered}
    return Schema(
        missing=tuple(name for name in known if name not in applied),
        unknown=tuple(sorted(applied.keys() - known.keys())),
        changed=tuple(name for name in known if applied.get(name, known[name]) != known[name]),
        empty=not applied,
    )


def is_of_0_1_0(applied: Mapping[str, str]) -> bool:
    """Return whether exactly the files of 0.1.0 were applied."""
    lines = "".join(f"{name} {checksum}\n" for name, checksum in sorted(applied.items()))
    return sha256(lines) == OLD_NUMBERING_CHECKSUM


@lru_cache(maxsize=1)  # the texts are those of the process, as a rule
def objects_of(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the kind and name of all that files make and do not drop again."""
    found: dict[tuple[str, str], None] = {}
    for text in texts:
        for verb, kind, name, rest in _STATEMENT.findall(_COMMENT.sub("", text)):
            made = [(kind.lower(), name)]
            if kind == "TABLE":
                made += [("column", f"{name}.{column}") for column in _COLUMN.findall(rest)]
            for each in made:
                found.pop(each, None)
                if verb == "CREATE":
                    found[each] = None
    return list(found)


def sha256(text: str) -> str:
    """Return the checksum of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def some(names: Sequence[str]) -> str:
    """Return names for one line: not more than a person reads, and how many there are besides."""
    named = list(dict.fromkeys(names))
    more = f" and {len(named) - NAMES_MAX} more" if len(named) > NAMES_MAX else ""
    return ", ".join(named[:NAMES_MAX]) + more
