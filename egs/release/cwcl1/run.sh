#!/usr/bin/env bash
# The model in the box (`en-tiny`): makes its sets, trains it, chooses and tests it. Resumes.
#   ./run.sh --data_args "--data DIR"     DIR: see ../../../tools/make_release_sets.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus release \
    --title "en-tiny: the model in the box" \
    --train_set train \
    --valid_evals "valid_digits:digits_10 valid_commands:gsc_v1_30 valid_wake:protocols/wake_phrases.yaml valid_cut:protocols/cut_words.yaml valid_phrases:retrieval valid_read:retrieval valid_intents:mini_intents_valid valid_slurp:slurp_intent valid_topv2:stop_intent" \
    --test_evals "test_digits:digits_10 test_commands:gsc_v1_30 test_wake:protocols/wake_phrases.yaml test_cut:protocols/cut_words.yaml test_phrases:retrieval test_read:retrieval test_words:mini_words test_intents:mini_intents test_slurp:slurp_intent test_topv2:stop_intent test_retrieval:retrieval" \
    --train_config conf/en-tiny.yaml \
    "$@"
