"""The composition root: which part is built from what, and which stage from which parts. Sees everything, decides nothing.

A process imports only what its own stage needs, so imports stand in the functions that build.
"""
