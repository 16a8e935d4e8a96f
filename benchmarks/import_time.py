"""What `import gradflow_utils` adds to `import torch`: seconds, and as a ratio. Run: python benchmarks/import_time.py"""

import statistics
import subprocess
import sys

RUNS = 9
CODE = """
import time
begin = time.perf_counter(); import torch
middle = time.perf_counter(); import gradflow_utils
print(middle - begin, time.perf_counter() - middle)
"""


def seconds() -> list[float]:
    """Seconds for torch, and then for the package, in a new process."""
    run = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    return [float(word) for word in run.stdout.split()]


if __name__ == "__main__":
    torch_alone, added = (statistics.median(times) for times in zip(*(seconds() for _ in range(RUNS))))
    print(f"import torch: {torch_alone:.2f} s (median of {RUNS})")
    print(f"import gradflow_utils adds {added:.3f} s, {added / torch_alone:.1%} of it (target: at most 0.3 s)")
