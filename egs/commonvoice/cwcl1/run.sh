#!/usr/bin/env bash
# Train on Common Voice; evaluate intents (SLURP, STOP), keywords (Speech Commands), retrieval.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus common_voice \
    --title "Common Voice" \
    --train_set train \
    --valid_evals "dev:retrieval" \
    --test_evals "slurp/test_headset:slurp_intent stop/test:stop_intent speech_commands/test:gsc_v2_35 test:retrieval" \
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \
    "$@"
