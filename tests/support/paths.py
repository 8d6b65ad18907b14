"""Where the repository, its demo and the examples beside it lie."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "workflow" / "demo" / "rodent-a"
SHARED = ROOT.parent / "shared"  # examples from elsewhere; tests that want them skip where they are missing
