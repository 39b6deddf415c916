#!/usr/bin/env bash
# Train on Speech Commands, whose transcripts are its labels: its own result is NOT zero-shot.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus speech_commands \
    --title "Speech Commands" \
    --train_set train \
    --valid_evals "valid:gsc_v2_35" \
    --test_evals "test:gsc_v2_35 test12:gsc_v2_12 slurp/test_headset:slurp_intent stop/test:stop_intent" \
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \
    "$@"
