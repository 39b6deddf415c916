#!/usr/bin/env bash
# Stage 1: all sets of the release at once; see tools/make_release_sets.py for what it needs.
set -euo pipefail
exec python ../../../tools/make_release_sets.py "$@"
