#!/usr/bin/env python3
"""A web service that classifies one recording by labels in words.

  python examples/service.py --port 8000
  curl --data-binary @clip.wav "http://127.0.0.1:8000/classify?label=yes&label=no"

The upload is counted as it arrives and refused at the limit, whatever its header promises; its
length in seconds is looked at before it is decoded. Nothing is kept.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from threading import Lock
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.concurrency import run_in_threadpool

import speechcwcl
from speechcwcl.data.audio import audio_info
from speechcwcl.errors import UserError

Label = Annotated[list[str], Query(min_length=1, max_length=100)]


def create_app(model: Any, *, most_bytes: int = 10 * 2**20, most_seconds: float = 30) -> FastAPI:
    """The service, for uvicorn or any other ASGI server.

    Args:
        model: what `speechcwcl.load` gave.
        most_bytes: of an upload.
        most_seconds: of a recording.
    """
    app = FastAPI(title="speechcwcl")
    one_at_a_time = Lock()

    def answer(path: Path, labels: list[str]) -> list[dict[str, Any]]:
        seconds = audio_info(path).duration
        if seconds > most_seconds:
            raise UserError(f"{seconds:.1f} s of audio; at most {most_seconds:g} s are allowed")
        with one_at_a_time:
            return model.classify([path], labels)[0]

    @app.post("/classify")
    async def classify(request: Request, label: Label) -> list[dict[str, Any]]:
        """Labels with scores, the best first; the body is an audio file."""
        with tempfile.TemporaryDirectory() as folder:
            path, size = Path(folder) / "upload", 0
            with path.open("wb") as stream:
                async for part in request.stream():
                    size += len(part)
                    if size > most_bytes:
                        raise HTTPException(413, f"at most {most_bytes} bytes are allowed")
                    stream.write(part)
            try:
                return await run_in_threadpool(answer, path, label)
            except UserError as error:
                told = str(error).replace(str(path), "the recording")
                raise HTTPException(422, told) from error

    return app


def main() -> None:
    """Serve on this machine only; put a proxy before it for more."""
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="en-tiny", help="(default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
    options = parser.parse_args()
    uvicorn.run(create_app(speechcwcl.load(options.model)), host="127.0.0.1", port=options.port)


if __name__ == "__main__":
    main()
