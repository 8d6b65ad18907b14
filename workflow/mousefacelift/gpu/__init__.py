"""NVIDIA GPUs: the driver, the compilers, and gsplat's CUDA extension, which is compiled once per machine or container."""
