"""The emitter: carries the store's changes to Kafka and account notices back. Never imports `consumers`."""
