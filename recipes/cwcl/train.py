#!/usr/bin/env python3
"""Train under CWCL (or another loss) in the SpeechBrain look: train.py hparams/x.yaml --key value.

The same as `speechcwcl train`, which says what the options are.

Example:
    python train.py hparams/whisper_tiny.yaml --train dump/train/manifest.jsonl \\
        --valid valid_words:mini_words_valid --expdir exp/whisper_tiny --epochs 20
"""

import sys

from speechcwcl.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
