#!/usr/bin/env bash
# Makes the environment that path.sh finds: the same as `make install` at the top of the repository.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && make install
