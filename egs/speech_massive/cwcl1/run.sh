#!/usr/bin/env bash
# Train on the sentences of one language of Speech-MASSIVE; evaluate SLURP's intents.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus speech_massive \
    --title "Speech-MASSIVE" \
    --train_set train \
    --valid_evals "validation:slurp_intent validation:retrieval" \
    --test_evals "test:slurp_intent test:slurp_scenario test:retrieval" \
    --train_config ../../../recipes/cwcl/hparams/whisper_small_multilingual.yaml \
    "$@"
