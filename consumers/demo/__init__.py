"""The demo: a made-up fintech shop, a leak, and everything that Tocsin does about it, checked by code of its own.

`shop` writes the store's tables and remembers what it wrote; `oracle` computes from that memory alone who must be told
what and how; `run` starts the real processes and tells the story. Nothing here is used in production.
"""
