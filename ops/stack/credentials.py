"""Passwords and keys of the private stack: made once, kept in `<home>/secrets.json` (0600)."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from pathlib import Path

from pydantic import BaseModel, Field


def _password() -> str:
    return secrets.token_hex(16)  # hexadecimal, so that it needs no quoting in a URL


def _cookie() -> str:
    return secrets.token_hex(32)  # Erlang's own has 36 bits, made from its start time


def _key_ring() -> str:
    return f"k1:{secrets.token_hex(32)}"


def _admin_token() -> str:
    return secrets.token_hex(32)


class Credentials(BaseModel):
    """The secrets of one home. They outlive a stack: the stores' data depends on them."""

    redis_password: str = Field(default_factory=_password)
    amqp_password: str = Field(default_factory=_password)
    postgres_password: str = Field(default_factory=_password)
    #: Whoever has it may run anything as the user of RabbitMQ, from this machine.
    erlang_cookie: str = Field(default_factory=_cookie)
    ticket_keys: str = Field(default_factory=_key_ring)
    jwt_keys: str = Field(default_factory=_key_ring)
    webhook_keys: str = Field(default_factory=_key_ring)
    shop_keys: str = Field(default_factory=_key_ring)
    admin_token: str = Field(default_factory=_admin_token)


def load_credentials(home: Path) -> Credentials:
    """Read the credentials of `home`; whatever is missing is made and kept."""
    file = home / "secrets.json"
    kept = json.loads(file.read_text()) if file.exists() else {}
    credentials = Credentials(**kept)
    if credentials.model_dump() != kept:
        home.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=home, prefix="secrets-")  # made with mode 0600
        with os.fdopen(descriptor, "w") as new:
            new.write(credentials.model_dump_json(indent=2))
        Path(name).replace(file)
    return credentials
