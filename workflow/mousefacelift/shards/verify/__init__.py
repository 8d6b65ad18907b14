"""Whether shards are what their manifest says: every byte is read again, and damage is named with its sample."""
