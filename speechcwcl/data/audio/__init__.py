"""Audio: the only room that decodes it."""

from speechcwcl.data.audio.decode import (
    END_TOLERANCE,
    SAMPLE_RATE,
    AudioInfo,
    audio_blocks,
    audio_info,
    check_samples,
    decode_audio,
    encode_audio,
    load_audio,
    write_audio,
)

__all__ = [
    "END_TOLERANCE",
    "SAMPLE_RATE",
    "AudioInfo",
    "audio_blocks",
    "audio_info",
    "check_samples",
    "decode_audio",
    "encode_audio",
    "load_audio",
    "write_audio",
]
