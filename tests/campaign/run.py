"""Give the command line wrong input of every kind and tabulate what a person would see.

Run from the project's root: `PYTHONPATH=tests python -m campaign.run [PART OF A NAME ...] [--out TABLE.md]`. Every case
is a command of its own, forked from a process that has imported everything, in a folder of its own. It is well if it
ends in time, with the status that is right, without a traceback, with an error that names what is wrong, in little
memory. Not part of the test suite, whose cases are chosen and faster.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import runpy
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
SECONDS = 90
MEBIBYTES = 3000
# What must not be shown: the password of all addresses here, and what a terminal would take for a command.
SECRET = {"a password": "geheim", "a control sequence": "\x1b["}
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Case:
    """One wrong input.

    Attributes:
        kind: Of the fault.
        name: In words.
        command: Words after `kedro`, or after `python -m` where the first is a module's name; `{folder}` is the case's.
        says: What the output must have in it, in any case of letters.
        environment: Variables.
        prepare: Makes files in the case's folder, which has a copy of the configuration in `conf`.
        accepted: Whether it is to work.
    """

    kind: str
    name: str
    command: tuple[str, ...]
    says: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    prepare: Callable[[Path], object] = lambda folder: None
    accepted: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a case: what is wrong with it, if anything, its last words, and how long it took."""

    faults: tuple[str, ...]
    words: str
    seconds: float


def _become(case: Case, folder: Path) -> None:
    """Be the command of a case, in a forked process; never returns."""
    status = 70
    try:
        output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(PROJECT)
        os.environ |= {"SKDCGN_DATA": str(folder / "data"), "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
        os.environ |= {key: value.replace("{folder}", str(folder)) for key, value in case.environment.items()}
        words = [word.replace("{folder}", str(folder)) for word in case.command]
        module, words = (words[0], words[1:]) if "." in words[0] else ("kedro", words)
        sys.argv = [module, *words]
        sys.path.insert(0, str(folder))  # for modules of the case
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)  # noqa: T201  (as Python itself would)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def try_case(case: Case, root: Path) -> Outcome:
    """Run a case and say what is wrong with what came of it."""
    folder = Path(tempfile.mkdtemp(dir=root))
    shutil.copytree(PROJECT / "conf", folder / "conf")
    shutil.copy(root / "mlflow.db", folder)  # an empty one, whose tables take seconds to make
    case.prepare(folder)
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        _become(case, folder)
    hung = left = False
    try:
        while True:
            pid, state, used = os.wait4(child, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > SECONDS and not hung:
                hung = True
                os.killpg(child, signal.SIGKILL)
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError):
            for _ in range(50):  # those of Python end a moment after it
                os.killpg(child, 0)
                time.sleep(0.04)
            os.killpg(child, signal.SIGKILL)
            left = not hung
    seconds = time.monotonic() - start
    output = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
    status = os.waitstatus_to_exitcode(state)
    faults = [f"no end after {SECONDS} s"] if hung else []
    if left:
        faults.append("leaves processes behind")
    if TRACEBACK in output:
        faults.append("a traceback")
    if not hung and status not in ((0,) if case.accepted else (1, 2)):
        faults.append("accepted" if status == 0 else f"status {status}")
    lower = " ".join(output.split()).lower()
    faults += [f"does not say '{word}'" for word in case.says if word.lower() not in lower]
    faults += [f"shows {what}" for what, shown in SECRET.items() if shown in output]
    if list(folder.rglob("*.made")):
        faults.append("runs code of a file")
    if used.ru_maxrss > 1024 * MEBIBYTES:
        faults.append(f"{used.ru_maxrss // 1024} MiB")
    last = " ".join(output[output.rfind("Error") if "Error" in output else -300 :].split())
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(tuple(faults), last[:260], seconds)


def import_everything() -> None:
    """Import what all commands need, without starting threads or registering the project."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401

    from skdcgn_pipeline import hooks, session  # noqa: F401
    from skdcgn_pipeline.pipeline_registry import register_pipelines

    register_pipelines()


def make_database(root: Path) -> None:
    """Make the database that all cases start from, in a process of its own: MLflow keeps threads."""
    import mlflow

    if (child := os.fork()) == 0:
        mlflow.MlflowClient(f"sqlite:///{root / 'mlflow.db'}").search_experiments()
        os._exit(0)
    os.waitpid(child, 0)


def main() -> int:
    """Run the cases that the command line names, all by default; returns the number of those that are not well."""
    from campaign.cases import CASES
    from campaign.more_cases import MORE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help="of names or kinds; all cases by default")
    parser.add_argument("--out", type=Path, help="write the table there, as Markdown")
    chosen = parser.parse_args()
    cases = [
        c for c in (*CASES, *MORE) if not chosen.parts or any(part in f"{c.kind}: {c.name}" for part in chosen.parts)
    ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # no case outlives the campaign
    import_everything()
    rows, bad = ["| kind | case | s | | what it says |", "|---|---|---:|---|---|"], 0
    with tempfile.TemporaryDirectory() as root:
        make_database(Path(root))
        for case in cases:
            outcome = try_case(case, Path(root))
            bad += bool(outcome.faults)
            verdict = "; ".join(outcome.faults) or "well"
            words = outcome.words.replace("|", "\\|").replace(root, "")
            rows.append(f"| {case.kind} | {case.name} | {outcome.seconds:.1f} | {verdict} | {words} |")
            print(rows[-1], flush=True)  # noqa: T201  (a command of its own)
    print(f"{len(cases) - bad} of {len(cases)} cases are well")  # noqa: T201
    if chosen.out:
        chosen.out.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return min(bad, 100)


if __name__ == "__main__":
    sys.exit(main())
