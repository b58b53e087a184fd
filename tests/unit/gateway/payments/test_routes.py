"""`POST /v1/orders/{order_id}/payments`: what a body may hold."""

from __future__ import annotations

import msgspec
import pytest

from gateway.payments.routes import PaymentRequest


@pytest.mark.parametrize("name", ["payment_method", "return_url"])
def test_a_value_does_not_end_with_a_new_line(name: str) -> None:
    good = {"payment_method": "pm_1", "return_url": "https://shop.example/back"}
    msgspec.convert({"method": "card", **good}, PaymentRequest)
    with pytest.raises(msgspec.ValidationError, match=name):
        msgspec.convert({"method": "card", name: good[name] + "\n"}, PaymentRequest)
