"""Predictions on views that were held out: metrics, baselines, pictures."""
