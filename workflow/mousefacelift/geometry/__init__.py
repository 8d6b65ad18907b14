"""Pure geometry: arrays in, arrays out, float64. Cameras, virtual views, visual hulls, up, synchrony, and the choice of frames and views."""
