"""Take a message whose properties cannot be read, instead of losing the link.

The library ends a link at properties that it cannot decode, for example at a time of the year
146140482. RabbitMQ delivers such a message again over the next link, and all other messages of the
queue wait. Here the message comes with those properties that were read before the bad one. Its body
says all that is needed to handle it.
"""

from __future__ import annotations

import logging

from pamqp.header import ContentHeader

log = logging.getLogger(__name__)

_unmarshal = ContentHeader.unmarshal


def tolerate_unreadable_properties() -> None:
    """Make the library do so for every link of this process; a second call changes nothing."""
    ContentHeader.unmarshal = _unmarshal_tolerantly  # type: ignore[assignment]  # a static one


def _unmarshal_tolerantly(header: ContentHeader, data: bytes) -> None:
    try:
        _unmarshal(header, data)
    # Whatever a hostile table of headers raises: RecursionError, OverflowError, UnicodeDecodeError.
    except Exception as error:
        if header.class_id is None:  # not even the size of the body is known
            raise
        log.warning("a message has properties that cannot be read: %s", error)
