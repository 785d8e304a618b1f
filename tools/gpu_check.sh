#!/usr/bin/env bash
# Check and measure this project on one NVIDIA GPU: tools/gpu_check.sh [--budget-s 480] [--out FOLDER] [...]
# Needs a Python with torch and the core's other requirements; wheels of those that it lacks go to tools/wheels/.
set -euo pipefail
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
if compgen -G "tools/wheels/*.whl" > /dev/null; then
    # In a folder of their own: the interpreter's own packages stay as they are.
    site="$(mktemp -d)"
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" tools/wheels/*.whl
    PYTHONPATH="$PYTHONPATH:$site"
fi
"$python" tools/gpu_check.py "$@"
