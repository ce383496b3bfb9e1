"""Text from files on its way to a terminal: escapes what could move the cursor, colour the text or reorder it.

`printable` is for a name or a value inside a sentence; `terminal_text` is for whole output, whose lines stay lines.
"""

from __future__ import annotations

import re

LONGEST = 200  # characters of a file's text within one sentence

# Control characters, lone surrogates, and the marks that reorder or break lines (Unicode TR 36, 2.5)
_UNSEEN = "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_SURROGATES = "\ud800-\udfff"
_TAGS = "\U000e0000-\U000e007f"
_OUTPUT = re.compile(f"[{_UNSEEN}{_SURROGATES}{_TAGS}]")
_SENTENCE = re.compile(f"[\t\n{_UNSEEN}{_SURROGATES}{_TAGS}]")


def printable(text: object, longest: int = LONGEST) -> str:
    """One line without control characters (they are shown as \\x1b or \\u202e), cut in the middle to `longest`."""
    text = str(text)
    if len(text) > longest:
        kept = max(1, (longest - 3) // 2)
        text = f"{text[:kept]}...{text[-kept:]}"
    return _SENTENCE.sub(_escape, text)


def terminal_text(text: str, encoding: str | None = None) -> str:
    """`text` with line ends and tabs as they are and every other control character escaped.

    `encoding`: of the stream; what it cannot hold is shown as an escape and never an error.
    """
    text = _OUTPUT.sub(_escape, text)
    if encoding is None:
        return text
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character)
    if named is not None:
        return named
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
