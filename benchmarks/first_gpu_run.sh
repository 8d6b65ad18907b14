#!/usr/bin/env bash
# All that is to be known of a GPU, in ten minutes at most:  bash benchmarks/first_gpu_run.sh [FOLDER] [OPTIONS]
# Tables and logs go to FOLDER (gpu-run). PYTHON names the interpreter; --help lists the options.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "$0")/first_gpu_run.py" "$@"
