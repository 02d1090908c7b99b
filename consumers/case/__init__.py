"""The incident: workflow, people and permissions, the case store's interface, the outbox, `tocsin incident`."""
