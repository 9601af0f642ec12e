"""Alembic's entry: runs the migrations on the connection that `metadata_store.migrate` hands over."""

from __future__ import annotations

from alembic import context

from hls_pipeline.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
