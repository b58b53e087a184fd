"""The admin port: health, metrics, and what operators may do to a sale while it runs.

Promise: no change without the admin token; each call may be repeated, and each change leaves one
line in the log, whatever becomes of it.

Relies on: the stores of the public application, which it shares, and `seckill.sales` and
`seckill.consistency` for what a change means.

Begin with `app.py`, the table of its routes.
"""
