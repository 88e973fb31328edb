"""Many prompts: what recurs, what differs, and what it predicts."""
