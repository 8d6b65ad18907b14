"""The configuration: one module per section, each a typed model, from which config/schema.json is generated."""
