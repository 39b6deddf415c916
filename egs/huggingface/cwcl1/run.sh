#!/usr/bin/env bash
# Any audio dataset of the hub or of the disk (parquet, arrow, audio folder), by id and column names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus huggingface \
    --title "a dataset of the hub" \
    --train_set train \
    --valid_evals "validation:retrieval" \
    --test_evals "test:retrieval" \
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \
    "$@"
