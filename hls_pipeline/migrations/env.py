"""Alembic's entry: the migrations run in the transaction of the connection that `metadata_store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from hls_pipeline.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
