"""Drawing Gaussians: `api` is what others call, `cpu` its compiled backend, `reference` the plain float64 truth both are tested against."""
