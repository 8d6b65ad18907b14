"""Weight files: read without trust, compared with a network and its presets, described, and written."""
