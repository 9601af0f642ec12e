"""How runs get from Dagster to the process that executes them.

`launcher.py` puts a run's id into a queue, `worker.py` takes it out and executes the run in a process that is warm;
`broker.py` says what the two kinds of message broker have in common. Which uploads to start is decided by the sensors.
"""
