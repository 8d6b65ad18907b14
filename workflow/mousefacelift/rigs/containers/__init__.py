"""Parsers of foreign files (JSON, TOML, YAML, XML, MATLAB, HDF5, pickle) that trust nothing in them."""
