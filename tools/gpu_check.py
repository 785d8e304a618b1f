"""Check and measure this project on one GPU, in minutes: figures go to `gpu_check.json`, tables to `docs/gpu.md`.

    tools/gpu_check.sh --budget-s 480
    python tools/gpu_check.py --render build/gpu/gpu_check.json docs/gpu.md

A part that fails or finds no time is recorded with the reason, and the others still run. `--miniature` does
everything with tiny networks on a CPU, in seconds.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
FIGURES = re.compile(r"(?<=<!-- figures -->\n).*(?=<!-- end of figures -->)", re.DOTALL)


logger = logging.getLogger("gpu_check")


class OutOfTimeError(BaseException):
    """A part's time is over; no `Exception`, so that nothing on the way takes it for one."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-s", type=float, default=480, help="seconds for everything")
    parser.add_argument("--train-s", type=float, help="seconds of the long distillation; what is left by default")
    parser.add_argument("--variant", default="wildlife", choices=["colored", "double_colored", "wildlife"])
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "build/gpu")), help="folder; $OUT, or build/gpu"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="goldens, steps, throughput, ...")
    parser.add_argument("--miniature", action="store_true", help="tiny networks on the CPU")
    parser.add_argument("--render", nargs=2, type=Path, metavar=("JSON", "PAGE"), help="write a page's tables anew")
    return parser.parse_args(arguments)


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `OutOfTimeError` inside the block when its time is over."""

    def stop(*_: object) -> None:
        raise OutOfTimeError

    if seconds <= 0:
        raise OutOfTimeError
    before = signal.signal(signal.SIGALRM, stop)
    # Again and again: where an object is being deleted, Python drops what is raised.
    signal.setitimer(signal.ITIMER_REAL, seconds, 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(name: str, work: Callable[[Any, Any], None], run: Any, seconds: float) -> dict[str, Any]:
    """Do one part and return what is known of it, however it ends."""
    from gpu_parts import Part, SkippedError

    logger.info("--- %s, at most %.0f s", name, seconds)
    part, start = Part(), time.monotonic()
    told: dict[str, Any] = {"status": "done"}
    try:
        with limited(seconds):
            work(run, part)
    except SkippedError as error:
        told = {"status": "skipped", "reason": str(error)}
    except OutOfTimeError:
        told = {"status": "stopped", "reason": f"its {seconds:.0f} s were over"}
    except Exception as error:
        logger.exception("%s failed", name)
        told = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
    rows = [{key: value for key, value in asdict(row).items() if value not in (None, "")} for row in part.rows]
    seconds = round(time.monotonic() - start, 1)
    return {**told, "seconds": seconds, "rows": rows, "notes": part.notes, "details": part.details}


def describe(device: Any) -> dict[str, Any]:
    """Return what was measured on."""
    import torch

    is_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_gpu else platform.processor() or platform.machine(),
        "memory_gb": round(torch.cuda.get_device_properties(device).total_memory / 1e9, 1) if is_gpu else None,
        "driver": _driver(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if is_gpu else None,
        # Torch's defaults, which "fp32" stands for where nothing else is said.
        "tf32": {
            "matrix products": torch.backends.cuda.matmul.allow_tf32,
            "convolutions": torch.backends.cudnn.allow_tf32,
        },
    }


def _driver() -> str:
    """Return the version of NVIDIA's driver; nothing where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    words = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 (nothing in it is given)
    return ran.stdout.strip()


def check(asked: argparse.Namespace) -> int:
    """Do the parts one after the other and write the figures after each; returns the exit status."""
    start = time.monotonic()
    os.environ.setdefault("SKDCGN_ASSETS", str(ROOT.parent / "shared" / "data"))
    os.environ.setdefault("SKDCGN_GOLDEN", str(ROOT.parent / "shared" / "golden"))
    sys.path.insert(0, str(ROOT / "src"))
    import gpu_measures as measures
    import gpu_parts as parts

    # Each with the seconds it may take; the last one takes what is left.
    works = {
        "goldens": (parts.check_goldens, 40),
        "steps": (parts.check_steps, 40),
        "throughput": (measures.measure_throughput, 130),
        "distillation": (measures.measure_distillation, 110),
        "ensemble": (measures.measure_ensemble, 60),
        "training": (measures.train_students, math.inf),
    }
    if asked.miniature:
        measures.make_brief()
    asked.out.mkdir(parents=True, exist_ok=True)
    run = parts.Run(asked.miniature, asked.variant, asked.out, start + asked.budget_s, asked.train_s)
    told: dict[str, Any] = {"variant": asked.variant, "miniature": asked.miniature, **describe(run.device)}
    told |= {"budget_s": asked.budget_s, "seconds": 0.0, "parts": {}}
    for name, (work, seconds) in works.items():
        if asked.only is None or name in asked.only:
            told["parts"][name] = run_part(name, work, run, min(seconds, run.left - 5))
            told["seconds"] = round(time.monotonic() - start, 1)
            path = asked.out / "gpu_check.json"
            path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    for name, part in told["parts"].items():
        logger.info("%s: %s in %.0f s %s", name, part["status"], part["seconds"], part.get("reason", ""))
    return int(any(part["status"] == "failed" for part in told["parts"].values()))


# --- the page -------------------------------------------------------------------------------------


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _table(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def table_of(rows: list[dict[str, Any]]) -> str:
    """Return figures as Markdown; those measured at several batch sizes have a column for each."""
    sizes = sorted({row["batch_size"] for row in rows if "batch_size" in row})
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault((row["what"], row.get("unit", "")), {})
        line[str(row.get("batch_size", ""))] = row["value"]
        # Of several batch sizes, the last one that was judged.
        line |= {key: row[key] for key in ("ratio", "target", "met") if key in row}
    columns = ["", *map(str, sizes)]
    columns = [own for own in columns if any(own in line for line in lines.values())]
    told = []
    for (what, unit), line in lines.items():
        aim = f"{line['target']}: {'met' if line['met'] else 'missed'}" if "target" in line else ""
        ratio = f"{line['ratio']:.2f}x" if "ratio" in line else ""
        told.append([what, unit, *(_number(line.get(own, math.nan)) for own in columns), ratio, aim])
    return _table(["what", "unit", *(f"batch {own}" if own else "value" for own in columns), "ratio", "aim"], told)


def render(told: dict[str, Any]) -> str:
    """Return the tables of a page."""
    tf32 = told["tf32"]
    versions = f"torch {told['torch']}, CUDA {told['cuda']}, Python {told['python']}"
    switches = ", ".join(f"{'on' if own else 'off'} in {name}" for name, own in tf32.items())
    lines = [
        f"{told['device']}, {told['cores']} cores, {versions}"
        + (f", driver {told['driver']}." if told["driver"] else "."),
        f'All parts took {told["seconds"]:.0f} s. TF32 in "fp32", but for goldens and steps: {switches}.',
    ]
    for name, part in told["parts"].items():
        lines.append(f"### {name.capitalize()}")
        lines.append(f"{part['status'].capitalize()} in {part['seconds']:.0f} s. {part.get('reason', '')}".strip())
        if part["rows"]:
            lines.append(table_of(part["rows"]))
        lines += [f"- {note}" for note in part["notes"]]
    return "\n\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Check, or render a page."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    asked = parse(arguments)
    if not asked.render:
        return check(asked)
    source, page = asked.render
    told = json.loads(source.read_text(encoding="utf-8"))
    text, changed = FIGURES.subn(lambda _: render(told), page.read_text(encoding="utf-8"))
    if not changed:
        logger.error("%s lacks the lines <!-- figures --> and <!-- end of figures -->", page)
        return 1
    page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
