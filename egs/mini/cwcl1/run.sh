#!/usr/bin/env bash
# The mini corpus: synthetic speech, in this repository. Trains CWCL and CLIP from one feature cache and
# shows them side by side, and beside them the model that comes with the package. Options of the driver
# can be given: ./run.sh --stage 5 --ngpu 1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \
    --corpus mini \
    --title "mini: CWCL beside CLIP" \
    --train_set train \
    --valid_evals "valid_words:mini_words_valid valid_intents:mini_intents_valid valid_sentences:retrieval" \
    --test_evals "test_words:mini_words test_intents:mini_intents test_sentences:retrieval" \
    --train_config "conf/cwcl.yaml conf/clip.yaml" \
    --beside en-tiny \
    "$@"
