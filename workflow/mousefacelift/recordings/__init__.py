"""Captures as labs leave them: the table, the videos and images, and the silhouettes in them."""
