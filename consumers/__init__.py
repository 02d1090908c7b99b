"""Everything behind the topics: index, incidents, law, notices, delivery, evidence."""
