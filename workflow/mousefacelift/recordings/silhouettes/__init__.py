"""One module per way to find the mouse in a frame. `registry` lists them."""
