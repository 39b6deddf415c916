# Sourced by every recipe: finds the toolkit and the environment that `make` or `setup.sh` made.
CWCL_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
export CWCL_ROOT
if [ -x "${CWCL_ROOT}/.venv/bin/python" ]; then
    export PATH="${CWCL_ROOT}/.venv/bin:${PATH}"
fi
export PYTHONPATH="${CWCL_ROOT}${PYTHONPATH:+:${PYTHONPATH}}"
export TOKENIZERS_PARALLELISM=false
