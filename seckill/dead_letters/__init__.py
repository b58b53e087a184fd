"""Dead letters: messages that can never succeed as they stand, and how an operator ends them.

It promises that a message which dies is written down once, that nothing is lost when an operator
replays it, and that its units are returned once when an operator discards it. It relies on the dead
queues of `adapters/topology.py` and on the table `dead_letters`. Begin with `store.py`, then
`resolution.py`.
"""
