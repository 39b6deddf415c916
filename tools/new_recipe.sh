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

from collections.abc import Iterator
from pathlib import Path

from speechcwcl.corpora.base import Listing, write_lines, write_spoken
from speechcwcl.corpora.base import Corpus
from speechcwcl.data.tables import Problems
from speechcwcl.data.rows import one_text, read_table
from speechcwcl.data.utterance import Utterance


class Recipe(Corpus):
    """Edit what follows: facts first, then how its files are read."""

    name = "${name}"
    title = "${name}"
    licence = "unknown"
    splits = ("train", "valid", "test")
    label_fields = ("label",)

    def utterances(self, source: Path, split: str, problems: Problems) -> Iterator[Utterance]:
        """Yield the clips of one split; see :meth:\`Corpus.utterances\`."""
        table, listing = self.file(source / "metadata.csv").resolve(), Listing()
        for number, row in read_table(table, ("audio", "text", "split"), problems):
            audio = table.parent / row["audio"]
            if row["split"] != split:
                continue
            if not listing.has(audio):
                problems.add(f"{table}:{number}: {listing.missing(audio)}")
                continue
            name = "_".join(row["audio"].rsplit(".", 1)[0].replace("/", "-").split())
            speaker = "_".join(row.get("speaker", "").split())
            labels = {"label": row["label"]} if row.get("label") else {}
            text = one_text(row["text"], f"{table}:{number}", name)
            yield Utterance(name, str(audio), text, speaker, labels=labels)

    def fake(self, target: Path, seed: int = 0) -> Path:
        """A few tones in the true layout."""
        rows = ["audio,text,speaker,split,label"]
        for split in self.splits:
            for number, text in enumerate(("turn it on", "turn it off", "what time is it")):
                for seed_of_speaker, speaker in enumerate(("a", "b")):
                    audio = f"{split}/{speaker}{number}.wav"
                    write_spoken(target / audio, text, seed + seed_of_speaker)
                    rows.append(f"{audio},{text},{speaker},{split},intent{number}")
        write_lines(target / "metadata.csv", rows)
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
