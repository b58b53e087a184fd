"""Signatures of webhooks: as the specification has them, and as the documentation checks them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import pytest

from seckill.webhooks.signing import new_secret, signed_headers
from tests.webhook_receiver import documented_check, sample

NODE = shutil.which("node")
BODY = '{"orders": ["é"]}'.encode()


def test_a_signature_is_that_of_the_specification() -> None:
    headers = signed_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        now_s=1614265330,
    )
    signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-signature"] == signature


def test_no_secret_is_like_another() -> None:
    assert new_secret() != new_secret()


@pytest.mark.parametrize("late_s", [0, 299, -299])
def test_the_documented_check_takes_a_request_by_either_secret(late_s: int) -> None:
    old, new = new_secret(), new_secret()
    headers = signed_headers("msg_1", BODY, [new, old], now_s=int(time.time()) - late_s)
    check = documented_check()
    assert check(new, headers, BODY)
    assert check(old, headers, BODY)


def test_the_documented_check_refuses_what_is_not_ours() -> None:
    secret, check = new_secret(), documented_check()
    headers = signed_headers("msg_1", BODY, [secret], now_s=int(time.time()))
    assert not check(new_secret(), headers, BODY)
    assert not check(secret, headers, BODY + b" ")
    assert not check(secret, {**headers, "webhook-id": "msg_2"}, BODY)
    for sent_at in ("soon", str(int(time.time()) - 400)):
        assert not check(secret, {**headers, "webhook-timestamp": sent_at}, BODY)


def test_the_check_in_javascript_says_the_same(tmp_path) -> None:
    if NODE is None:
        assert not os.environ.get("CI"), "node is needed to test the documented check"
        pytest.skip("node is not installed")
    secret, other = new_secret(), new_secret()
    good = signed_headers("msg_1", BODY, [secret], now_s=int(time.time()))
    both = signed_headers("msg_1", BODY, [other, secret], now_s=int(time.time()))
    late = signed_headers("msg_1", BODY, [secret], now_s=int(time.time()) - 400)
    cases = [[secret, good], [secret, both], [other, good], [secret, late]]
    script = tmp_path / "check.mjs"
    script.write_text(
        f"{sample('js')}\nconst body = Buffer.from({json.dumps(BODY.decode())});\n"
        f"const cases = {json.dumps(cases)};\n"
        "console.log(JSON.stringify(cases.map(([s, h]) => isOurs(s, h, body))));\n"
    )
    ran = subprocess.run([NODE, script], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == [True, True, False, False]
