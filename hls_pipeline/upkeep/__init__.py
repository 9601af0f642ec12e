"""What keeps an installation healthy between uploads: pins, stores that drift apart, old history, and who is told.

Each module is one duty that a schedule in `schedules.py` or a command starts: re-pinning, reconciliation, anchors,
retention, alerts. Add a duty here; a step of the path belongs in `steps.py`.
"""
