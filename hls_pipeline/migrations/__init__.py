"""Alembic migrations of the metadata store; `metadata_store.migrate` runs them."""
