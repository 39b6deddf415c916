#!/usr/bin/env bash
# MInDS-14 is a test set: train on LibriSpeech, evaluate bank customers' intents.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus minds14 \
    --title "MInDS-14" \
    --train_set librispeech/train-clean-5 \
    --valid_evals "librispeech/dev-clean-2:retrieval" \
    --test_evals "train:minds14 train:retrieval" \
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \
    "$@"
