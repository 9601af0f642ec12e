"""What the assets and sensors talk to, as Dagster resources.

A resource only builds a plain object, when a run or a tick asks for it; the object's own module says what it does. The
settings come from the environment, so one list of resources serves every installation. Add one here for a new service.
"""
