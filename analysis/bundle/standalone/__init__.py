"""Files that every bundle gets a copy of, so that it can be read without this project."""

from pathlib import Path

FOLDER = Path(__file__).parent
__all__ = ["FOLDER", "network"]  # load.py imports its neighbour as a bundle has it
