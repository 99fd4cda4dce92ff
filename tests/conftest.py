"""What every test relies on."""

import os
from pathlib import Path

# Tests that start a fresh interpreter find the tree's own package, installed or not.
SOURCE = str(Path(__file__).parent.parent / "src")
os.environ["PYTHONPATH"] = os.pathsep.join(p for p in (SOURCE, os.environ.get("PYTHONPATH", "")) if p)
