"""Child processes: started, kept alive, asked, and never left behind.

Promise: a child ends with its parent, however that ends. A home has at most one supervisor and one
pool manager. What a process should do is asked over its control socket; a file is a record of what
is: a pid, a lock, a log.

Relies on: Linux (`/proc`, PR_SET_PDEATHSIG, flock).

Begin with `supervision.py`, which keeps children alive, then `child.py`. `requests.py` lists what a
supervisor and a pool manager can be asked.
"""
