"""The typed files that stages hand on: one frozen dataclass with `read` and `write` per file."""
