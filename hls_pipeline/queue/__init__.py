"""How runs get from Dagster to the process that executes them: the daemon that starts them, and their bookkeeping."""
