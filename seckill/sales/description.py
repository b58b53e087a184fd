"""What a sale's page shows beside its terms: name, number, picture and the shop's own data."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from seckill.errors import UserMistake

#: Bytes of a sale's metadata as JSON. A page of 100 sales stays below half a megabyte.
METADATA_MAX = 2048
PICTURE_URL_MAX = 2000

#: One line: a line break would break the lines of a terminal, and a mail's subject.
_LINE = r"^[^\x00-\x1f\x7f]+(?![\s\S])"
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=_LINE)]
Sku = Annotated[str, Meta(min_length=1, max_length=64, pattern=_LINE)]
#: JSON values of the shop, by name.
Metadata = dict[str, Any]
PictureUrl = Annotated[str, Meta(max_length=PICTURE_URL_MAX)]

#: What no address has unescaped, and what would end an attribute of HTML.
_NOT_OF_URLS = re.compile(r"[^!-~]|[\"'<>\\^`{|}]")


def check_description(
    name: str | None, sku: str | None, picture_url: str | None, metadata: Metadata
) -> None:
    """Raise UserMistake if one of them cannot be shown."""
    for what, text, longest in (("name", name, 200), ("sku", sku, 64)):
        if text is not None and not (re.match(_LINE, text) and len(text) <= longest):
            raise UserMistake(f"{what}: give one line of 1 to {longest} characters", field=what)
    if picture_url is not None:
        _check_picture_url(picture_url)
    if (size := len(encode_metadata(metadata))) > METADATA_MAX:
        raise UserMistake(
            f"metadata: at most {METADATA_MAX} bytes as JSON, these are {size}", field="metadata"
        )


def encode_metadata(metadata: Metadata) -> str:
    """Return the JSON of metadata; raise UserMistake if PostgreSQL or a browser cannot hold it."""
    try:
        return msgspec.json.encode(metadata).decode()
    except (msgspec.EncodeError, UnicodeError, RecursionError, TypeError) as error:
        raise UserMistake(f"metadata: {error}", field="metadata") from error


def parse_metadata(text: str) -> Metadata:
    """Return the metadata of a JSON text; raise UserMistake if that is no JSON object."""
    try:
        return msgspec.json.decode(text, type=Metadata)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise UserMistake(
            f'metadata: give a JSON object, such as {{"colour": "red"}}: {error}',
            field="metadata",
        ) from error


def _check_picture_url(text: str) -> None:
    try:
        url = urlsplit(text)
        is_right = url.scheme == "https" and bool(url.hostname) and "@" not in url.netloc
        is_right = is_right and (url.port is None or url.port > 0)  # the port raises if it is none
    except ValueError:
        is_right = False
    if not is_right or len(text) > PICTURE_URL_MAX or _NOT_OF_URLS.search(text):
        raise UserMistake(
            f"picture_url: give an https address of at most {PICTURE_URL_MAX} characters, "
            "such as https://shop.example/shoe.jpg",
            field="picture_url",
        )
