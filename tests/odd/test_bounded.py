"""No header decides how much memory is taken: measured in a process of its own."""

import subprocess
import sys

import files

READ = """
import resource, sys
from speechcwcl.data.audio import audio_blocks, load_audio, audio_info
from speechcwcl.errors import UserError
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
usual, *paths = sys.argv[1:]
load_audio(usual)  # brings torch
start, answered = peak(), []
for path in paths:
    for call in (audio_info, load_audio, lambda path: list(audio_blocks(path))):
        try:
            call(path)
            answered.append(path)
        except UserError:
            pass
print(len(answered), peak() - start)
"""


def test_memory_follows_the_file_and_not_its_header(tmp_path):
    makers = [
        files.flac_of_frames(2**30),
        files.flac_of_frames(2**36 - 1),
        files.wav_that_says_channels(1024),
        files.wav_that_says_rate(1),
        files.wav_that_says_rate(2**31 - 1),
        files.shard_address(10**12),
    ]
    odd = []
    for number, make in enumerate(makers):
        (tmp_path / str(number)).mkdir()
        odd.append(str(make(tmp_path / str(number))))
    rates = [11127, 47999, 11126, 47998, 44099, 44101, 22051, 999999]
    good = [str(files.at_rate("wav", rate)(tmp_path)) for rate in rates]
    usual = str(files.at_rate("wav", 44100)(tmp_path))
    words = [sys.executable, "-c", READ, usual, *odd, *good]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    answered, grown = done.stdout.split()
    assert int(answered) == 3 * len(good) + 3, done.stderr  # 1024 channels are short, but sound
    assert float(grown) < 100  # MB; 6,300 at 11,127 Hz alone once
