#!/usr/bin/env bash
# Train on STOP's transcripts, never on its parses; evaluate all three zero-shot families.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus stop \
    --title "STOP" \
    --train_set train \
    --valid_evals "eval:stop_intent eval:retrieval" \
    --test_evals "test:stop_intent test:stop_domain slurp/test_headset:slurp_intent speech_commands/test:gsc_v2_35 test:retrieval" \
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \
    "$@"
