#!/usr/bin/env bash
# The whole ablation: make the speech, compile the sets, run the grid. Run it again to go on.
#   recipes/cwcl/ablation/run.sh DATA OUT [options of ablate.py]
# DATA holds text/slurp, text/topv2, text/snips and, if there, real recordings (see
# tools/make_intent_speech.py); OUT gets the sets (OUT/data, OUT/dump) and the runs (OUT/runs).
# Options of that tool go into SPEECH_OPTIONS, such as SPEECH_OPTIONS=--voices for voices.yaml.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,3\}//p' "$0" >&2; exit 2; }
data=$(cd "$1" && pwd)
mkdir -p "$2"
out=$(cd "$2" && pwd)
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "${here}/../../../egs/TEMPLATE/cwcl1/path.sh"

python "${CWCL_ROOT}/tools/make_intent_speech.py" --data "${data}" --out "${out}" --work "${out}/work" \
    ${SPEECH_OPTIONS:-}
speechcwcl prepare mini --out "${out}/data" --sets valid_words valid_intents valid_sentences \
    test_words test_intents
for folder in "${out}"/data/*/; do
    name=$(basename "${folder}")
    speechcwcl stage --name "format ${name}" --stamp "${out}/stamps/${name}" \
        --log "${out}/logs/${name}.log" --inputs "${folder}" \
        --outputs "${out}/dump/${name}/manifest.jsonl" -- \
        speechcwcl format "${folder}" "${out}/dump/${name}/manifest.jsonl"
done
python "${here}/ablate.py" --dumpdir "${out}/dump" --out "${out}/runs" "$@"
