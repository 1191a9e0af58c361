"""What `import bayesmeta` adds to importing torch, pyro and gpytorch: medians of fresh processes, interleaved.

python benchmarks/cost/import_time.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys

PROBE = """
import time
import torch, pyro, gpytorch
start = time.perf_counter()
import bayesmeta
print(time.perf_counter() - start)
"""
RUNS = 7


def main() -> None:
    runs = [
        subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True) for _ in range(RUNS)
    ]
    seconds = [float(run.stdout) for run in runs[1:]]  # the first fills the file cache
    print(f"import bayesmeta adds {statistics.median(seconds):.3f} s ({min(seconds):.3f} to {max(seconds):.3f})")


if __name__ == "__main__":
    main()
