"""The networks, their Gaussians, and how these are drawn. Nothing here knows of captures or of training."""
