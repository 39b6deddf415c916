"""Speech-MASSIVE: the sentences of MASSIVE (SLURP's, in 12 languages) read aloud."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from speechcwcl.corpora._hf_disk import write_table
from speechcwcl.corpora.huggingface import ByLanguage


class SpeechMassive(ByLanguage):
    """FBK-MT/Speech-MASSIVE of the hub, or a copy of it: `<locale>/<split>-*.parquet`.

    The test split lies in FBK-MT/Speech-MASSIVE-test; put its files beside the others. `train` is
    there for de-DE and fr-FR, `train_115` for all. The field `label` is the intent in SLURP's 60
    classes, `scenario` one of 18. `--language` chooses the locale, fr-FR by default.
    """

    name = "speech_massive"
    title = "Speech-MASSIVE"
    licence = "CC-BY-NC-SA-4.0"
    url = "https://huggingface.co/datasets/FBK-MT/Speech-MASSIVE"
    version = "the hub's parquet of 2024"
    synthetic_speech = False
    splits = ("train", "train_115", "validation", "test")
    label_fields = ("label", "scenario")

    def __init__(self, language: str = "fr-FR", dataset: str = "FBK-MT/Speech-MASSIVE") -> None:
        super().__init__(
            dataset,
            config=language,
            audio="audio",
            text="utt",
            speaker="speaker_id",
            id="none",
            labels={"label": "intent_str", "scenario": "scenario_str"},
        )

    def download(self, target: Path, splits: Iterable[str] | None = None) -> Path:
        """See `HuggingFace.download`; the test split comes from its own dataset."""
        given = list(splits or self.splits)
        if others := [name for name in given if name != "test"]:
            super().download(target, others)
        if "test" in given:
            alone = SpeechMassive(str(self.config), "FBK-MT/Speech-MASSIVE-test")
            super(SpeechMassive, alone).download(target, ["test"])
        return Path(target)

    def fake(self, target: Path, seed: int = 0) -> Path:
        """The hub's parquet in two languages, sentences of our own."""
        for place, (locale, said) in enumerate(_FAKE.items()):
            for number, split in enumerate(self.splits):
                rows = [
                    {
                        "id": str(row),
                        "locale": locale,
                        "utt": text,
                        "scenario_str": intent.split("_")[0],
                        "intent_str": intent,
                        "speaker_id": f"{split}{row % 2}",
                    }
                    for row, (text, intent) in enumerate(said)
                ]
                file = Path(target) / locale / f"{split}-00000-of-00001.parquet"
                write_table(file, rows, "utt", seed + 100 * place + 10 * number)
        return Path(target)


_FAKE = {
    "fr-FR": [
        ("réveille moi dans une heure", "alarm_set"),
        ("éteins la lampe du couloir", "iot_hue_lightoff"),
        ("va t il pleuvoir ce soir", "weather_query"),
        ("mets du jazz", "play_music"),
    ],
    "de-DE": [
        ("weck mich in einer stunde", "alarm_set"),
        ("mach die lampe im flur aus", "iot_hue_lightoff"),
        ("regnet es heute abend", "weather_query"),
        ("spiel etwas jazz", "play_music"),
    ],
}
