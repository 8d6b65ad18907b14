"""One module per layout of another program. `registry` lists them."""
