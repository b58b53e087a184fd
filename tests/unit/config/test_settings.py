"""Settings: a bad value stops the start and names its variable; the environment wins."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from config.settings import (
    DEFAULT_HOME,
    PROJECT_ROOT,
    STORES,
    BadSettings,
    Settings,
    given_home,
    load_settings,
    save_stack_settings,
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the settings at an empty home, in an environment without settings."""
    for name in list(os.environ):
        if name.startswith("SECKILL_") or name == "NOTIFY_SOCKET":
            monkeypatch.delenv(name)
    monkeypatch.setenv("SECKILL_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECKILL_GRAB_BATCH_MAX", "0"),
        ("SECKILL_GRAB_BATCH_MAX", "513"),
        ("SECKILL_GATEWAY_PORT", "65536"),
        ("SECKILL_ADMIN_PORT", "http"),
        ("SECKILL_REDIS_TIMEOUT_S", "0"),
        ("SECKILL_DRAIN_S", "-1"),
        ("SECKILL_CONFIRM_TIMEOUT_S", "nan"),
        ("SECKILL_REDIS_TIMEOUT_S", "inf"),
        ("SECKILL_TICKET_TTL_S", "1e300"),
        ("SECKILL_OUTBOX_MAX", "1.5"),
        ("SECKILL_PREFETCH", ""),
        ("SECKILL_PREFLIGHT", "skip"),
        ("SECKILL_NAMESPACE", "a.b"),
        ("SECKILL_NAMESPACE", "a:b"),
        ("SECKILL_NAMESPACE", "n" * 33),
        ("SECKILL_TIMEOUTS", "delay_queue,cron"),
        ("SECKILL_REDIS_URL", "foo"),
        ("SECKILL_REDIS_URL", "redis://u:p@127.0.0.1:abc/0"),
        ("SECKILL_AMQP_URL", "http://127.0.0.1:5672"),
        ("SECKILL_POSTGRES_DSN", "127.0.0.1:5432"),
        ("SECKILL_POSTGRES_DSN", "postgresql://one,two/db?target_session_attrs=standby"),
        ("SECKILL_POSTGRES_DSN", "postgresql://one/db?sslmode=verify-full&sslrootcert=system"),
        ("SECKILL_POSTGRES_DSN", "postgresql://one/db?sslmode=verify-full&sslrootcert=/none/ca"),
        ("SECKILL_AMQP_URL", "amqps://one/?cafile=/none/ca.pem"),
        ("SECKILL_REDIS_URL", "redis://one:6379,two:6379/0"),
        ("SECKILL_PROVIDER_URL", "http://one,two"),
        ("SECKILL_CURRENCY", "eur"),
        ("SECKILL_CURRENCY", "XXX"),
        ("SECKILL_ADMIN_TOKEN", "a" * 31),
        ("SECKILL_ADMIN_TOKEN", "a" * 32 + "\n" + "a"),
        ("SECKILL_ADMIN_TOKEN", "é" * 32),
        ("SECKILL_ADMIN_TOKEN", "a'; echo " + "b" * 32),
        ("SECKILL_TRUSTED_PROXIES", "10.0.0.1, proxy.example"),
        ("SECKILL_TRUSTED_PROXIES", "10.0.0.1/8"),  # host bits: which one is meant?
        ("SECKILL_TRUSTED_PROXIES", "0.0.0.0/0"),  # everybody
        ("SECKILL_TRUSTED_PROXIES", "::ffff:10.0.0.0/104"),
        ("SECKILL_CORS_ORIGINS", "https://shop.example/"),
        ("SECKILL_CORS_ORIGINS", "https://shop.example:443"),
        ("SECKILL_CORS_ORIGINS", "https://Shop.example"),
        ("SECKILL_CORS_ORIGINS", "shop.example"),
        ("SECKILL_CORS_ORIGINS", "null"),
        ("SECKILL_CORS_ORIGINS", "*, https://shop.example"),
        ("SECKILL_LIMITS_FILE", "limits.toml"),  # processes run in other directories
        ("SECKILL_TLS_CERT", "/cert.pem"),  # without a key
        ("SECKILL_TLS_KEY", "/key.pem"),
    ],
)
def test_a_bad_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSettings, match=name):
        load_settings()


def test_every_home_is_the_one_that_the_environment_names_or_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECKILL_HOME", str(tmp_path / "a b:c'd"))
    assert given_home() == tmp_path / "a b:c'd" == load_settings().home
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECKILL_HOME", "here")
    assert given_home() == tmp_path / "here"
    monkeypatch.setenv("SECKILL_HOME", "")
    assert given_home() == DEFAULT_HOME
    assert load_settings().home == DEFAULT_HOME
    # `up` alone asks for the default: it then leaves SECKILL_HOME out of what it says.
    sources = [
        path
        for each in ("ops", "loadtest", "scripts")
        for path in (PROJECT_ROOT / each).rglob("*.py")
    ]
    users = [path.name for path in sources if "DEFAULT_HOME" in path.read_text()]
    assert users == ["up_screen.py"]


def test_lists_are_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_TRUSTED_PROXIES", " 10.0.0.0/8,::1 ,")
    monkeypatch.setenv("SECKILL_CORS_ORIGINS", "https://a.example, http://[::1]:8080")
    settings = load_settings()
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert settings.cors_origins == {"https://a.example", "http://[::1]:8080"}


def test_nobody_is_trusted_or_let_in_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_TRUSTED_PROXIES", "")
    settings = load_settings()
    assert not settings.trusted_proxies
    assert not settings.cors_origins


def test_certificates_are_named_by_absolute_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_TLS_CERT", "/tls/cert.pem")
    monkeypatch.setenv("SECKILL_TLS_KEY", "key.pem")
    with pytest.raises(BadSettings, match=r"SECKILL_TLS_KEY: key\.pem must be an absolute path"):
        load_settings()


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_PREFETCH", "x")
    monkeypatch.setenv("SECKILL_GATEWAY_PORT", "x")
    with pytest.raises(BadSettings, match=r"(?s)SECKILL_GATEWAY_PORT.*SECKILL_PREFETCH"):
        load_settings()


def test_an_error_never_shows_a_secret(home: Path) -> None:
    save_stack_settings(home, {"ticket_keys": ["s3cr3t"]})
    with pytest.raises(BadSettings, match="SECKILL_TICKET_KEYS") as caught:
        load_settings()
    assert "s3cr3t" not in str(caught.value)


def test_an_admin_token_that_is_refused_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_ADMIN_TOKEN", "s3cr3t")
    with pytest.raises(BadSettings, match="at least 32") as caught:
        load_settings()
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("token", ["", "a" * 32, "aZ0-._~+/" * 4 + "=="])
def test_an_admin_token_of_this_form_is_taken(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("SECKILL_ADMIN_TOKEN", token)
    assert load_settings().admin_token.get_secret_value() == token


def test_secrets_are_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_TICKET_KEYS", "k:s3cr3t")
    assert "s3cr3t" not in repr(load_settings())


def test_the_running_stack_is_found_and_the_environment_wins(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_stack_settings(home, {"redis_url": "redis://stack", "amqp_url": "amqp://stack"})
    monkeypatch.setenv("SECKILL_AMQP_URL", "amqp://environment")
    settings = load_settings()
    assert (settings.redis_url, settings.amqp_url) == ("redis://stack", "amqp://environment")


@pytest.mark.parametrize("content", [b"{", b"null", b'"text"', b"\xff"])
def test_a_damaged_stack_file_is_named(home: Path, content: bytes) -> None:
    (home / "settings.json").write_bytes(content)
    with pytest.raises(BadSettings, match=r"settings\.json"):
        load_settings()


def test_the_stack_file_is_for_its_owner_alone(home: Path) -> None:
    save_stack_settings(home, {"redis_url": "redis://stack"})
    assert [path.name for path in home.iterdir()] == ["settings.json"]
    assert stat.S_IMODE((home / "settings.json").stat().st_mode) == 0o600


def test_missing_stores_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_REDIS_URL", "redis://x")
    with pytest.raises(BadSettings, match="SECKILL_AMQP_URL, SECKILL_POSTGRES_DSN not set"):
        load_settings().require(*STORES)


def test_all_missing_settings_are_named_at_once() -> None:
    with pytest.raises(BadSettings) as caught:
        load_settings().require(*STORES, "ticket_keys", "jwt_keys")
    names = "SECKILL_REDIS_URL, SECKILL_AMQP_URL, SECKILL_POSTGRES_DSN"
    assert str(caught.value).startswith(f"{names}, SECKILL_TICKET_KEYS, SECKILL_JWT_KEYS not set")


def test_a_bad_address_is_said_so_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_REDIS_URL", "redis://user:secret/word@localhost:6379/0")
    with pytest.raises(BadSettings, match="SECKILL_REDIS_URL") as caught:
        load_settings()
    assert "secret" not in str(caught.value)


def test_configured_stores_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, scheme in (
        ("REDIS_URL", "redis"),
        ("AMQP_URL", "amqp"),
        ("POSTGRES_DSN", "postgres"),
    ):
        monkeypatch.setenv(f"SECKILL_{name}", f"{scheme}://x")
    load_settings().require(*STORES)


def test_the_relay_does_not_resend_what_a_gateway_still_waits_for() -> None:
    settings = Settings()
    assert settings.confirm_timeout_s * 1000 < settings.relay_age_ms


def test_a_confirm_timeout_beyond_the_relay_age_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECKILL_CONFIRM_TIMEOUT_S", "2")
    monkeypatch.setenv("SECKILL_RELAY_AGE_MS", "2000")
    with pytest.raises(BadSettings, match="SECKILL_CONFIRM_TIMEOUT_S"):
        load_settings()


@pytest.mark.parametrize(
    ("text", "ways"),
    [
        (None, {"delay_queue"}),
        ("", set()),
        ("key_expiry", {"key_expiry"}),
        (" delay_queue , key_expiry,", {"delay_queue", "key_expiry"}),
    ],
)
def test_timeouts_are_a_list_of_ways(
    monkeypatch: pytest.MonkeyPatch, text: str | None, ways: set[str]
) -> None:
    if text is not None:
        monkeypatch.setenv("SECKILL_TIMEOUTS", text)
    assert load_settings().timeouts == ways


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("postgres_dsn", "postgresql://u:p@one:5432,two:5432/db?target_session_attrs=read-write"),
        ("postgres_dsn", "postgresql://u:p@[::1]:5432,two/db"),
        ("postgres_dsn", "postgresql:///db?host=/run/postgresql"),
        ("amqp_url", "amqp://u:p@one:5672,[2001:db8::2]:5672/vhost"),
        ("redis_url", "redis://:p@[::1]:6379/0"),
        ("redis_url", "unix:///run/redis.sock?db=0"),
    ],
)
def test_addresses_of_these_forms_are_taken(
    name: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SECKILL_{name.upper()}", address)
    assert getattr(load_settings(), name) == address


@pytest.mark.parametrize("name", ["redis_url", "amqp_url", "postgres_dsn"])
def test_a_line_feed_behind_an_address_is_no_part_of_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    schemes = {"redis_url": "redis", "amqp_url": "amqp", "postgres_dsn": "postgresql"}
    address = f"{schemes[name]}://u:p@127.0.0.1:1/0"
    monkeypatch.setenv(f"SECKILL_{name.upper()}", f"{address}\n")
    assert getattr(load_settings(), name) == address
