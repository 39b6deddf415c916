#!/usr/bin/env bash
# Train on SLURP's transcripts, never on its labels; evaluate all three zero-shot families.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus slurp \
    --title "SLURP" \
    --train_set train \
    --valid_evals "devel_headset:slurp_intent devel_headset:retrieval" \
    --test_evals "test_headset:slurp_intent test_headset:slurp_scenario test_headset:slurp_action stop/test:stop_intent speech_commands/test:gsc_v2_35 test_headset:retrieval" \
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \
    "$@"
