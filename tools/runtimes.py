"""Released students by each runtime that is installed, against their teacher: a table and a picture.

    SKDCGN_ASSETS=/path/to/assets python tools/runtimes.py [PICTURE.png]

Per release and number of threads everything is timed in turns in one process, each at its best batch size.
"""

from __future__ import annotations

import os
import sys
from itertools import product

import pandas as pd
from PIL import Image
from released_mnist import NAMES, teacher_of

from skdcgn_pipeline.benchmark.frame import BEST
from skdcgn_pipeline.benchmark.networks import TrainedNetworks, measure_throughput, tabulate
from skdcgn_pipeline.parameters import Benchmark, Compute
from skdcgn_pipeline.reporting.pictures import draw_benchmark
from skdcgn_pipeline.students.trio import StudentCGN

BATCH_SIZES = (64, 256, 512)


def measure(name: str, num_threads: int) -> pd.DataFrame:
    """Return the best rate of each runtime, on so many threads."""
    teacher = teacher_of(name)
    students = StudentCGN.from_released(name)
    settings = Benchmark(num_threads=num_threads, batch_sizes=BATCH_SIZES)
    networks = TrainedNetworks(teacher, students, {}, settings, 0, Compute(device="cpu"))
    table = tabulate({"throughput": measure_throughput}, networks, lambda group: "python tools/runtimes.py")
    best = table[table["what"].str.endswith(BEST)]
    threads = "thread" if num_threads == 1 else "threads"
    return best.assign(
        group=f"{name.replace('_mnist', '')}, {num_threads} {threads}", what=best["what"].str.removesuffix(f", {BEST}")
    )


def main() -> None:
    """Measure all, tell the table and draw it."""
    load, tables = " ".join(f"{number:.1f}" for number in os.getloadavg()), []
    for number, name in product((1, 2), NAMES):
        tables.append(measure(name, number))
        columns = tables[-1][["group", "what", "value", "batch_size", "ratio"]]
        sys.stdout.write(columns.to_string(index=False, header=False, float_format="%.1f") + "\n")
        sys.stdout.flush()
    table = pd.concat(tables, ignore_index=True)
    sys.stdout.write(f"{table['machine'][0]}; {table['versions'][0]}; load at the start {load}\n")
    if len(sys.argv) > 1:
        Image.fromarray(draw_benchmark(table)).save(sys.argv[1])


if __name__ == "__main__":
    main()
