#!/usr/bin/env bash
# Train on the transcripts of Fluent Speech Commands; evaluate its intents.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus fluent_speech_commands \
    --title "Fluent Speech Commands" \
    --train_set train \
    --valid_evals "valid:fsc_intent valid:retrieval" \
    --test_evals "test:fsc_intent test:retrieval speech_commands/test:gsc_10" \
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \
    "$@"
