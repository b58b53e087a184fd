"""The shop's own programs: the tokens by which they are known, and the answers kept for them.

It promises that a token is at rest as a digest alone, that a revoked one is refused within seconds,
and that a request with a key changes something once, however often it is sent. It relies on
PostgreSQL. Begin with `tokens.py`.
"""
