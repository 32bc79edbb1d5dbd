"""What is measured; `python -m tests.benchmarks` (`__main__.py`) says how."""

import os

# As app.py does, and before torch is loaded: its idle threads would spin on the other's core.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
