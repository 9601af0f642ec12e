"""The REST door: uploads, the immediate answer, live status, playback and the pages people look at.

`app.create_app(settings)` puts it together. A route parses, makes one call and shapes the answer; what a package is
and what happens to it is decided in the plain modules above. Nothing here imports Dagster.
"""
