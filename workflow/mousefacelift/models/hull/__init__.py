"""Intervals of pixel rays inside the visual hull of a sample's input views: for numba and for torch."""
