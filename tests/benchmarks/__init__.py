"""What is measured; `python -m tests.benchmarks` (`__main__.py`) says how."""

from langsplat.progress import prepare_process

prepare_process()  # as the page and the command line do
