"""Pure decisions: scope, segments, obligations, deadlines, delivery states, gates. No I/O, no clock."""
