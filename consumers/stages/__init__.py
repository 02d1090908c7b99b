"""One step of the flow each. Stages meet only through topics and the case store, never by import."""
