"""`python benchmarks/reading.py` is `python cli.py benchmark reading`, with the same options."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", "reading", *sys.argv[1:]]))
