"""The namespace of this process: what the names of its Redis keys, exchanges and queues begin with.

It is one for a whole process, and empty unless several installations share stores. Whoever opens
the stores sets it first, from the settings. To pass it to each function that names a key would
touch most of the project.
"""

from __future__ import annotations

redis_prefix = ""
#: On a cluster the keys of no sale share this tag, so that they have one history: one node has all.
#: No sale has this id.
redis_tag = ""
rabbitmq_prefix = ""


def use(name: str) -> None:
    """Let all names of this process begin with `name`; with "" they have no prefix."""
    global redis_prefix, rabbitmq_prefix
    redis_prefix = f"{name}:" if name else ""
    rabbitmq_prefix = f"{name}." if name else ""


def use_cluster(is_cluster: bool) -> None:
    """Let the keys of no sale lie together on one node of a cluster."""
    global redis_tag
    redis_tag = "{~}:" if is_cluster else ""
