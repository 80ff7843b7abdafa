"""What our calls cost, against the drivers and the libraries of the field."""

import sys
from pathlib import Path

# A script has its own folder first on the path, where `redis.py` would be taken for redis-py.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]
