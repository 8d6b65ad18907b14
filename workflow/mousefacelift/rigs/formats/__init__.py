"""One module per calibration format: how it is recognised, read and, for some, written. `registry` lists them."""
