"""Several processes against one: results, and what happens when one of them ends."""
