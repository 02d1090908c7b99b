"""Plumbing that knows no event: settings, Kafka clients, the consume loop, telemetry, the clock, sealing."""
