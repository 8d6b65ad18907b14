"""One module per layout of another program that samples are exported to. `registry` lists them."""
