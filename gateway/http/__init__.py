"""What every route needs of HTTP: identities, bodies, answers, problems, the published contract.

Promise: each refusal is a problem with a stable code, and `/openapi.json` says what the code does,
because both come from the same declarations.

Relies on: no other wing of the gateway, and no store but the cached list of sales.

Begin with `problems.py`, the table of refusals, and `contract.py`, with which a route declares what
it takes and answers.
"""
