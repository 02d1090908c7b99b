"""Merkle tree, checkpoints, proofs, the log and its offline verifier."""
