"""TLS on the public port, with certificates that can be renewed while connections go on."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl

from config.settings import BadSettings, Settings

log = logging.getLogger(__name__)


def public_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context of the public port, whose files SIGHUP reads again; None without TLS."""
    if not settings.tls_cert:
        return None
    certificate = Certificate(settings.tls_cert, settings.tls_key)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, certificate.reload)
    return certificate.context


class Certificate:
    """A certificate and its key; handshakes in `context` use what was loaded last."""

    def __init__(self, cert: str, key: str) -> None:
        self._files = cert, key
        self._current = self.context = load(cert, key)
        # Each reload makes a context of its own, and handshakes change over to it. Loading into the
        # live one would leave it without a key when certificate and key do not fit (yet).
        self.context.sni_callback = self._change_over  # also called for clients that name no host

    def reload(self) -> None:
        """Read the files again; log that they cannot be used, and keep the old ones."""
        try:
            self._current = load(*self._files)
        except BadSettings as error:
            log.error("kept the old certificate: %s", error)
        else:
            log.info("read %s again", self._files[0])

    def _change_over(self, connection: ssl.SSLObject, _name: str, _old: ssl.SSLContext) -> None:
        connection.context = self._current


def load(cert: str, key: str) -> ssl.SSLContext:
    """Return a server's context of two PEM files; raise BadSettings naming the one at fault."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Only to see whether it is one: an error of load_cert_chain may be about either file.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cert)
    except OSError as error:
        raise BadSettings(f"SECKILL_TLS_CERT: {cert} {_fault(error, 'certificate')}") from error
    try:
        context.load_cert_chain(cert, key, password=_refuse_to_type)
    except (OSError, ValueError) as error:
        raise BadSettings(f"SECKILL_TLS_KEY: {key} {_fault(error, 'private key')}") from error
    return context


def _fault(error: Exception, wanted: str) -> str:
    """Return in words what is wrong with a file that should hold what is wanted."""
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "is not the key of the certificate in SECKILL_TLS_CERT"
        return f"holds no {wanted} in PEM form that can be used ({error.reason or 'not PEM'})"
    if isinstance(error, OSError):
        return f"cannot be read: {error.strerror}"
    return str(error)


def _refuse_to_type() -> str:
    raise ValueError("is encrypted; give it without a passphrase")
