"""Shards on disk: images, containers, the manifest, their verification, and other formats."""
