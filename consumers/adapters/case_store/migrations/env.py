"""Runs migrations on the connection that `engine.migrate` hands over, inside its transaction."""

from alembic import context

from consumers.adapters.case_store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, user_module_prefix="tables.")
context.run_migrations()
