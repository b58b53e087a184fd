"""Proofs of identity and permission: login tokens, tickets, signatures, proof of work.

It promises that every check is made without a store, in constant time where a secret is compared,
and that keys can be rotated without a gap. It relies on the secrets of the settings. Begin with
`tickets.py`.
"""
