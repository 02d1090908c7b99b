"""What the relay's benchmarks share: servers, a store full of rows, the relay as `tocsin run` starts it, and Debezium."""
