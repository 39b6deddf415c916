"""Which model made an embedding: one hash over all that an aligner's output depends on."""

from __future__ import annotations

import hashlib

from speechcwcl.files import sha256_json
from speechcwcl.models.aligner import Aligner


def model_identity(aligner: Aligner) -> str:
    """Hex sha256 that two aligners share exactly when they embed alike.

    It covers both encoders (by their hashes), the speech encoder's options and every learned
    tensor; not the folder's name, nor whether the frozen encoders lie in it.
    """
    digests = {}
    for name, tensor in aligner.learned_state().items():
        if name == "log_scale":  # a temperature moves no embedding
            continue
        digest = hashlib.sha256(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        digests[name] = digest.hexdigest()
    encoder = aligner.speech_encoder
    return sha256_json([encoder.hash, encoder.options(), aligner.text.hash, digests])
