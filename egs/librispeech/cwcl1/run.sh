#!/usr/bin/env bash
# Train on LibriSpeech; evaluate intents (SLURP, STOP), keywords (Speech Commands), retrieval.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus librispeech \
    --title "LibriSpeech" \
    --train_set train-clean-100 \
    --valid_evals "dev-clean:retrieval" \
    --test_evals "slurp/test_headset:slurp_intent stop/test:stop_intent speech_commands/test:gsc_v2_35 test-clean:retrieval" \
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \
    "$@"
