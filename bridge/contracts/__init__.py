"""The published language: envelope, event models, topics, index queries, errors. Standard library and pydantic only."""
