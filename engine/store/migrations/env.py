"""How Alembic runs here: always on a connection that the engine opened (``engine.store.migrating``)."""

from alembic import context

from engine.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column in place
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
