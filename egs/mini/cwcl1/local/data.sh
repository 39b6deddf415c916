#!/usr/bin/env bash
# Stage 1: the data folders of this corpus.
set -euo pipefail
datadir=data
data_args=
option_names="datadir data_args"
. "$(dirname "${BASH_SOURCE[0]}")/../../../TEMPLATE/cwcl1/utils/parse_options.sh"
# shellcheck disable=SC2086
exec speechcwcl prepare mini --out "${datadir}" ${data_args}
