"""Every reader of small files that others wrote: bytes and text, JSON, YAML, sealed JSON, and text for a terminal.

Promised: whatever lies under the name given (a pipe, a device, a folder, a cut, empty, huge, deeply nested or
self-referring text), the answer is a value of plain types or a UserError of one sentence, in bounded time and memory.
"""

from runtime.safe_files.json_files import parse_json, read_json, read_json_lines, read_json_object
from runtime.safe_files.plain import MissingFile, read_limited, read_text
from runtime.safe_files.sealed_json import read_sealed_json, seal_state, write_sealed_json
from runtime.safe_files.terminal import printable, terminal_text
from runtime.safe_files.yaml_files import parse_yaml, read_yaml

__all__ = [
    "MissingFile",
    "parse_json",
    "parse_yaml",
    "printable",
    "read_json",
    "read_json_lines",
    "read_json_object",
    "read_limited",
    "read_sealed_json",
    "read_text",
    "read_yaml",
    "seal_state",
    "terminal_text",
    "write_sealed_json",
]
