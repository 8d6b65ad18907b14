#!/usr/bin/env bash
# Run by Snakemake once the environment exists, from the workflow's folder.
set -euo pipefail
python -m pip install --constraint envs/constraints.txt --editable '.[gpu]'
