"""The network, its Gaussians, and how they are drawn. Nothing here knows of captures or of training."""
