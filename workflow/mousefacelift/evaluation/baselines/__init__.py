"""Predictions without a model, one file each, and the registry that names them."""
