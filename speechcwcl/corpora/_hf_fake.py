"""A parquet audio dataset as ``datasets`` writes one, without needing torchcodec."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from speechcwcl.corpora._layout import write_spoken

_FAKE = (
    ("turn the heating on", "heating_on"),
    ("it is far too warm in here", "heating_off"),
    ("warm the bathroom up", "heating_on"),
    ("stop heating the cellar", "heating_off"),
)


def write_parquet(target: Path, seed: int = 0) -> Path:
    """Write ``data/<split>-00000-of-00001.parquet`` with audio, text, intent and speaker."""
    import pyarrow
    import pyarrow.parquet

    names = sorted({intent for _, intent in _FAKE})
    string = {"dtype": "string", "_type": "Value"}
    features = {
        "audio": {"sampling_rate": 16000, "_type": "Audio"},
        "text": string,
        "intent": {"names": names, "_type": "ClassLabel"},
        "speaker_id": string,
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    for place, split in enumerate(("train", "validation", "test")):
        clips = []
        with tempfile.TemporaryDirectory() as folder:
            for number, (text, _) in enumerate(_FAKE):
                path = Path(folder) / f"{split}_{number}.flac"
                write_spoken(path, text, seed + 10 * place + number)
                clips.append({"bytes": path.read_bytes(), "path": path.name})
        table = pyarrow.table(
            {
                "audio": pyarrow.array(clips, type=kind),
                "text": [text for text, _ in _FAKE],
                "intent": pyarrow.array([names.index(i) for _, i in _FAKE], pyarrow.int64()),
                "speaker_id": [f"{split}{number % 2}" for number in range(len(_FAKE))],
            }
        ).replace_schema_metadata(metadata)
        file = target / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, file)
    return target
