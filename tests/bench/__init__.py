"""Benchmarks: one module each with `main(size) -> dict`, run by `make bench NAME=...`; here their results are not judged."""
