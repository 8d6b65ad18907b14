"""Scores of predicted views, one file each, and the registry that names them."""
