"""The operator's side: the `seckill` command, the stack on one machine, and the consumer pool.

Promise: everything starts with one command, is started again when it dies, and stops in the order
in which nothing is lost.

Relies on: Linux; `gateway` and `consumers` to serve and work, `seckill` for each rule.

Begin with `cli/main.py`, the table of all commands. `demo.py` and `buyers.py` run a whole sale.
"""
