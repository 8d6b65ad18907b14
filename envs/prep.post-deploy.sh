#!/usr/bin/env bash
# Run by Snakemake once the environment exists, from the workflow's folder.
set -euo pipefail
python -m pip install --no-deps --no-build-isolation --editable .
