"""Loads and validates the dated rules under `templates/law/`."""
