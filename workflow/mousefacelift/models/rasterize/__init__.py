"""Drawing Gaussians: others call `api`; `cpu` is its compiled backend, `reference` the plain float64 version that tests compare both with."""
