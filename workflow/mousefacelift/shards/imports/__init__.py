"""Samples of other programs as shards."""
