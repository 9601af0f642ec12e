"""The local stack: every service the pipeline needs, started and watched on one machine.

`stack.py` is the list of parts and the page to read first; `supervisor.py` keeps any list of parts alive. A new part
is one more value in that list; what it does belongs to its own package, not here.
"""
