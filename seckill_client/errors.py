"""What a call can fail with: three errors, told apart by what a program should do next.

    SeckillClientError    any of them
      OutcomeUnknown      no answer, or 5xx: it may have been done; the same call finds out
      ComeBackLater       nothing was done; the same call may succeed after `retry_after_s`
      RequestRefused      nothing was done, and the same call would be refused again

The client has repeated a call that fails with one of the first two as long as its patience lasts.
"""

from __future__ import annotations

from seckill_client.answers import NO_ANSWER, ServerAnswer


class SeckillClientError(Exception):
    """A call did not do what was asked; compare `code`, which is stable, and not the text."""

    def __init__(self, call: str, answer: ServerAnswer, why: str = "") -> None:
        self.answer = answer
        #: The code of the contract, such as `sold_out`; `no_answer` where none came.
        self.code = answer.code or NO_ANSWER
        #: The status of HTTP; 0 without an answer.
        self.status = answer.status
        #: Seconds to wait before the same call; None where no time is known.
        self.retry_after_s = answer.retry_after_s
        #: What was wrong, in words; the name of the value at fault.
        self.detail = why or str(answer.body.get("detail") or answer.body.get("title") or "")
        self.field = str(answer.body.get("field") or "")
        #: The id of the request in the gateway's logs.
        self.request_id = answer.request_id
        words = [f"{call}:", str(self.status) if self.status else "", self.code]
        about = f"{self.field}: {self.detail}" if self.field else self.detail
        super().__init__(" ".join(filter(None, words)) + (f" ({about})" if about else ""))


class OutcomeUnknown(SeckillClientError):
    """The call may have been done or not; the same call again finds it out."""


class ComeBackLater(SeckillClientError):
    """Nothing was done; the same call may succeed after `retry_after_s`."""


class RequestRefused(SeckillClientError):
    """Nothing was done, and the same call would be refused again."""


def error_of(call: str, answer: ServerAnswer) -> SeckillClientError:
    """Return the error of an answer that is not good."""
    if answer.is_unknown:
        return OutcomeUnknown(call, answer)
    return (ComeBackLater if answer.is_later else RequestRefused)(call, answer)
