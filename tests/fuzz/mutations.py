"""Valid files, damaged: the strategies of the fuzz tests."""

from __future__ import annotations

from hypothesis import strategies as st

# What other programs, editors and broken disks leave behind, and what readers stumble over.
TOKENS = [
    b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b"  ", b'"', b"'", b"{",
    b"}", b"[", b"]", b":", b"- ", b"null", b"NaN", b"-Infinity", b"true", b"-1", b"0", b"1e999",
    b"1e-400", b"9" * 5000, b"[" * 3000, b'{"a":' * 3000, b"../../etc/passwd", b"/dev/zero",
    b"pipe:touch X", b"!!python/object:os.system", b"&a [*a]", b"\xed\xa0\x80", b"\x7fELF",
    "é\u0301".encode(), b"http://127.0.0.1:9/x", b"A" * 70000, b"18446744073709551616",
    b"2147483648", b"\x00\x00\x00\x00",
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, seed: bytes) -> bytes:
    """`seed` with one to four pieces replaced, repeated or cut off."""
    data = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 0, 1, 2, 4, 8, 16, len(data) // 3]))
        kind = draw(st.sampled_from(["token", "bytes", "repeat", "cut", "flip"]))
        if kind == "token":
            data[start : start + length] = draw(st.sampled_from(TOKENS))
        elif kind == "bytes":
            data[start : start + length] = draw(st.binary(max_size=8))
        elif kind == "repeat":
            data[start:start] = data[start : start + length]
        elif kind == "cut":
            del data[start:]
        elif start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)
