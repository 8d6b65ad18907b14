"""Calibrated rigs: reading, checking, matching and drawing them."""
