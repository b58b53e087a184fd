"""When the stages of a batch of grabs began and ended: one clock read a stage, not a grab."""

from __future__ import annotations


class StageTimes:
    """The times of one batch, by the monotonic clock (`time.monotonic`); 0.0 until it is reached.

    A grab has two times of its own besides (`gateway.grabs.pipeline.PendingGrab`): `arrived_at` and
    `parsed_at`. A look-up has `called_at` and `replied_at` only.
    """

    __slots__ = ("called_at", "confirmed_at", "published_at", "replied_at")

    def __init__(self, called_at: float) -> None:
        #: The call of the script was begun.
        self.called_at = called_at
        #: Redis had replied. 0.0 if it did not; then the grabs of the batch failed.
        self.replied_at = 0.0
        #: The publish of the message that carries the batch was begun. 0.0 if no grab of the batch
        #: was accepted, or if the batch stays in the outbox because RabbitMQ is unavailable.
        self.published_at = 0.0
        #: RabbitMQ had confirmed the message. 0.0 if it did not.
        self.confirmed_at = 0.0
