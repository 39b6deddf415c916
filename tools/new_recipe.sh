#!/usr/bin/env bash
# Starts a recipe for your corpus: tools/new_recipe.sh mycorpus
# Writes speechcwcl/corpora/mycorpus.py (reads a csv: audio,text,speaker,split,label) and
# egs/mycorpus/cwcl1. Nothing that exists is overwritten. Both run at once on a fake of the corpus.
set -euo pipefail
if [ $# -ne 1 ] || ! [[ $1 =~ ^[a-z][a-z0-9_]*$ ]]; then
    echo "usage: tools/new_recipe.sh NAME      (small letters, digits, _; starts with a letter)" >&2
    exit 2
fi
name=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
module=${root}/speechcwcl/corpora/${name}.py
recipe=${root}/egs/${name}/cwcl1
for path in "${module}" "${recipe}"; do
    if [ -e "${path}" ]; then
        echo "new_recipe: ${path#"${root}"/} is there already; choose another name" >&2
        exit 2
    fi
done

mkdir -p "${recipe}"
cat >"${module}" <<PYTHON
"""The corpus ${name}: a folder with metadata.csv (audio,text,speaker,split,label) and the audio."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from speechcwcl.corpora.base import Corpus
from speechcwcl.data.audio import SAMPLE_RATE, write_audio
from speechcwcl.data.kaldi import Utterance
from speechcwcl.data.problems import Problems


class Recipe(Corpus):
    """Edit what follows: facts first, then how its files are read."""

    name = "${name}"
    title = "${name}"
    licence = "unknown"
    splits = ("train", "valid", "test")
    label_fields = ("label",)

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the clips of one split; see :meth:\`Corpus.utterances\`."""
        table = self.file(source / "metadata.csv")
        with table.open(encoding="utf-8", newline="") as stream:
            for number, row in enumerate(csv.DictReader(stream), 2):
                audio = source / row["audio"]
                if row["split"] != split:
                    continue
                if not audio.is_file():
                    problems.add(f"{table}:{number}: {row['audio']} is not there")
                    continue
                labels = {"label": row["label"]} if row.get("label") else {}
                name = row["audio"].rsplit(".", 1)[0].replace("/", "-")
                yield Utterance(name, str(audio), row["text"], row["speaker"], labels=labels)

    def fake(self, target: Path, seed: int = 0) -> Path:
        """A few tones in the true layout."""
        target, draw = Path(target), np.random.default_rng(seed)
        rows = ["audio,text,speaker,split,label"]
        for split in self.splits:
            for number, text in enumerate(("turn it on", "turn it off", "what time is it")):
                for speaker in ("a", "b"):
                    audio = f"{split}/{speaker}{number}.wav"
                    clock = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
                    tone = 0.2 * np.sin(2 * np.pi * (300 + 200 * number) * clock)
                    noise = 0.01 * draw.standard_normal(len(clock))
                    write_audio(target / audio, (tone + noise).astype(np.float32))
                    rows.append(f"{audio},{text},{speaker},{split},intent{number}")
        (target / "metadata.csv").write_text("\\n".join(rows) + "\\n", encoding="utf-8")
        return target
PYTHON
echo '. ../../TEMPLATE/cwcl1/path.sh' >"${recipe}/path.sh"
echo '. ../../TEMPLATE/cwcl1/cmd.sh' >"${recipe}/cmd.sh"
cat >"${recipe}/run.sh" <<SHELL
#!/usr/bin/env bash
# ${name}: train on its transcripts; evaluate retrieval, and your protocol when you have written one.
set -euo pipefail
cd "\$(dirname "\${BASH_SOURCE[0]}")"

exec ../../TEMPLATE/cwcl1/cwcl.sh \\
    --corpus ${name} \\
    --title "${name}" \\
    --train_set train \\
    --valid_evals "valid:retrieval" \\
    --test_evals "test:retrieval" \\
    --train_config ../../../recipes/cwcl/hparams/whisper_tiny_frozen.yaml \\
    "\$@"
SHELL
chmod +x "${recipe}/run.sh"
cat <<TEXT
wrote speechcwcl/corpora/${name}.py and egs/${name}/cwcl1/run.sh. Next:
  1. put metadata.csv (audio,text,speaker,split,label) beside your audio, or edit utterances()
  2. egs/${name}/cwcl1/run.sh --data_args "--data FOLDER"
  without data yet: egs/${name}/cwcl1/run.sh --data_args "--fake /tmp/${name}"
TEXT
