"""Small changes of a file's bytes, for tests that nothing but a clear error may come of them."""

from hypothesis import strategies as st

TOKENS = [
    b"0", b"-1", b"1e999", b"nan", b".Nan", b"Infinity", b"1e-320", b"9" * 400, b"-", b"null", b"true", b'""', b"[]", b"{}", b"[", b"]",
    b"{", b"}", b":", b",", b"\n", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"%YAML:1.0\n---\n", b"!!opencv-matrix", b"!!python/name:os.system",
    b"&a", b"*a", b"<!DOCTYPE a>", b"<!--", b"]]>", b"&lt;", b"...\n---\n", b"\r\n", b"cos\nsystem\n", b"R", b"\x80\x04", b"\x89HDF",
    b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 8, b"\x00\x00\x00\x80", b"names", b"cameras", b"K", b"R_cam_1",
    "é".encode(), "١".encode(), "🐭".encode(), b"..", b"../../etc/passwd", b"'", b'"', b"\\u0000", b"#", b"=", b"rows: 1000000000",
]  # fmt: skip


def mutate(data, kind, at, to, token):
    """One change of a file's bytes. at, to: places as fractions of its length."""
    i, j = sorted((int(at * len(data)), int(to * len(data))))
    if kind == "flip" and data:
        i = min(i, len(data) - 1)
        return data[:i] + bytes([data[i] ^ (1 << (len(token) + j) % 8)]) + data[i + 1 :]
    if kind == "cut":
        return data[:i]
    if kind == "insert":
        return data[:i] + token + data[i:]
    if kind == "overwrite":
        return data[:i] + token + data[i + len(token) :]
    if kind == "duplicate":
        return data[: min(j, i + 4000)] + data[i:]
    if kind == "remove":
        return data[:i] + data[min(j, i + 200) :]
    lines = data.split(b"\n")
    line = min(int(at * len(lines)), len(lines) - 1)
    if kind == "remove line":
        return b"\n".join(lines[:line] + lines[line + 1 :])
    if kind == "repeat line":
        return b"\n".join(lines[: line + 1] + lines[line:])
    # A whole word, number or name, becomes another.
    start = max(data.rfind(mark, 0, i) for mark in (b" ", b"[", b"\n", b'"')) + 1
    ends = [end for mark in (b" ", b",", b"\n", b'"', b"]") if (end := data.find(mark, start)) >= 0]
    return data[:start] + token + data[min(ends, default=len(data)) :]


KINDS = ["flip", "cut", "insert", "overwrite", "duplicate", "remove", "remove line", "repeat line", "word"]
fractions = st.integers(0, 9999).map(lambda n: n / 10_000)
tokens = st.sampled_from(TOKENS) | st.floats().map(lambda x: repr(x).encode()) | st.binary(max_size=12)
mutations = st.lists(st.tuples(st.sampled_from(KINDS), fractions, fractions, tokens), min_size=1, max_size=4)
