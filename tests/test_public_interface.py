"""What works without Kedro and MLflow, and what keeps it so."""

from __future__ import annotations

import os
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import skdcgn_pipeline
from skdcgn_pipeline.__main__ import main
from skdcgn_pipeline.networks.weights_file import write_state

PROJECT = Path(__file__).resolve().parents[1]

ABOVE_THE_CORE = {
    "io",
    "pipelines",
    "hooks",
    "session",
    "settings",
    "pipeline_registry",
    "cli",
    "distil_parallel",
    "__main__",
}

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"kedro", "kedro_datasets", "kedro_mlflow", "kedro_viz", "mlflow"}:
            raise ModuleNotFoundError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def core_modules() -> list[str]:
    names = [info.name for info in pkgutil.walk_packages(skdcgn_pipeline.__path__, "skdcgn_pipeline.")]
    return [name for name in names if name.split(".")[1] not in ABOVE_THE_CORE]


def test_the_package_alone_does_not_import_torch():
    heavy = '{"torch", "numpy", "pandas", "kedro", "mlflow"}'
    run = run_python(f"import skdcgn_pipeline, sys; print(sorted({heavy} & set(sys.modules)))")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_settings_are_checked_without_importing_torch():
    run = run_python("import skdcgn_pipeline.parameters, sys; print('torch' in sys.modules)")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "False"


def test_every_public_name_is_there():
    for name in skdcgn_pipeline.__all__:
        assert getattr(skdcgn_pipeline, name).__name__ == name


def test_public_names_need_torch_alone_of_the_heavy_packages():
    heavy = '{"numba", "pyarrow", "pandas", "sklearn", "scipy", "matplotlib", "requests", "kedro", "mlflow"}'
    names = sorted({*skdcgn_pipeline.__all__} - {"load_biased", "load_folder"})  # which read tables
    asked = "".join(f"skdcgn_pipeline.{name}; print('{name}', sorted({heavy} & set(sys.modules)))\n" for name in names)
    run = run_python(f"import skdcgn_pipeline, sys\n{asked}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [f"{name} []" for name in names]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'load_student'"):
        _ = skdcgn_pipeline.load_student


def test_the_core_works_where_kedro_and_mlflow_cannot_be_imported():
    imports = "".join(f"import {name}\n" for name in core_modules())
    code = f"""{BLOCKER}
{imports}
import torch
from skdcgn_pipeline import StudentCGN, compose, load_teacher

try:
    import kedro
except ModuleNotFoundError:
    print("blocked")

small = {{"architecture": "compact", "width": [3, 4, 3], "embedding_dim": 2}}
students = StudentCGN(4, 3, 8, dict.fromkeys(("shape", "texture", "background"), small)).eval()
print(tuple(compose(students.render(torch.zeros(2, 4), torch.tensor([0, 1]))).shape))
try:
    load_teacher("mnist_gcn")
except ValueError as error:
    print(error)
"""
    run = run_python(code)
    assert run.returncode == 0, run.stderr
    blocked, shape, refused = run.stdout.strip().splitlines()
    assert (blocked, shape) == ("blocked", "(2, 3, 8, 8)")
    assert "Did you mean 'mnist_cgn'?" in refused


# What only the extras `train` and `pipeline` bring.
OF_EXTRAS = ("numba", "pyarrow", "pandas", "sklearn", "scipy", "matplotlib", "requests", "jinja2", "kedro", "mlflow")


def test_an_installation_of_the_core_alone_makes_counterfactuals_and_classifies():
    code = f"""
import sys
sys.modules.update(dict.fromkeys({OF_EXTRAS}))
import torch
from skdcgn_pipeline import CounterfactualDataset, InvariantClassifier, StudentCGN

students = StudentCGN.from_released("digits")
image, _ = CounterfactualDataset(students, 4)[0]
classifier = InvariantClassifier([str(digit) for digit in range(10)]).eval()
print(tuple(image.shape), tuple(classifier(image[None] / 2 + 0.5).shape))
try:
    classifier.predict(image[None] / 2 + 0.5)
except ValueError as error:
    print(error)
"""
    run = run_python(code)
    assert run.returncode == 0, run.stderr
    shapes, refused = run.stdout.strip().splitlines()
    assert shapes == "(3, 32, 32) (1, 10)"
    assert "predict: expected the library pandas" in refused
    assert refused.endswith('pip install "skdcgn_pipeline[train]".')


def test_released_students_are_opened_without_the_compiler_of_torch():
    code = """
import sys
from skdcgn_pipeline import StudentCGN
StudentCGN.from_released("digits")
print(sorted({"sympy", "torch._dynamo", "torch._inductor"} & set(sys.modules)))
"""
    run = run_python(code)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_settings_are_refused_before_anything_heavy_is_imported():
    code = """
import atexit, sys
from kedro.framework.cli.cli import main
heavy = {"torch", "mlflow", "numpy", "pandas", "scipy", "matplotlib", "sqlalchemy"}
atexit.register(lambda: print(sorted(heavy & set(sys.modules))))
sys.argv = ["kedro", "run", "--params", "seed=-1"]
main()
"""
    run = run_python(code)
    assert run.returncode == 1
    assert run.stderr.strip().endswith("- seed: Input should be greater than or equal to 0 (got -1)")
    assert run.stdout.strip() == "[]"


def test_pipelines_are_made_without_what_single_nodes_need():
    rare = (
        '{"torch._dynamo", "torchvision", "sklearn", "scipy.special", "scipy.stats", "matplotlib", "IPython", "numba"}'
    )
    made = "from skdcgn_pipeline.pipeline_registry import register_pipelines; register_pipelines()"
    run = run_python(f"{made}; import sys; print(sorted({rare} & set(sys.modules)))")
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_without_kedro_the_command_says_how_to_get_it():
    code = f"{BLOCKER}\nfrom skdcgn_pipeline.__main__ import main\nmain(['run'])"
    run = run_python(code)
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert run.stderr.strip().endswith('pip install "skdcgn_pipeline[pipeline]".')


def test_a_folder_for_kedro_is_written_once(tmp_path, capsys):
    main(["init", str(tmp_path / "mine")])
    assert capsys.readouterr().out == f"cd {tmp_path / 'mine'} && kedro run\n"
    of_package = {path.name for path in (PROJECT / "conf" / "base").iterdir()}
    assert {path.name for path in (tmp_path / "mine" / "conf" / "base").iterdir()} == of_package
    assert list((tmp_path / "mine" / "conf" / "local").iterdir()) == []
    with pytest.raises(SystemExit, match="Error: init: expected a folder without 'conf'"):
        main(["init", str(tmp_path / "mine")])
    with pytest.raises(SystemExit, match="expected one folder, got nothing"):
        main(["init"])


def test_any_folder_is_run_in_with_the_configuration_of_the_package(tmp_path):
    arguments = [sys.executable, "-m", "skdcgn_pipeline", "run", "--env", "test", "--pipelines", "prune"]
    run = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "data" / "test").is_dir()
    shown = run.stdout + run.stderr
    assert "Completed node: prune.prune_data" in shown
    assert "Loading data" not in shown, "Kedro's own settings of logs"


def test_weights_are_readable_for_whom_the_surroundings_say(tmp_path):
    before = os.umask(0o027)
    try:
        write_state(torch.nn.Linear(2, 2), tmp_path / "weights.safetensors")
    finally:
        os.umask(before)
    assert (tmp_path / "weights.safetensors").stat().st_mode & 0o777 == 0o640


def test_the_core_has_all_its_rooms():
    rooms = {name.split(".")[1] for name in core_modules()}
    assert {
        "images",
        "losses",
        "metrics",
        "teachers",
        "students",
        "reporting",
        "studies",
        "training",
        "parameters",
    } <= rooms


# --- import contracts ----------------------------------------------------------------------------


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    if not command.exists():
        pytest.skip("needs lint-imports (the dev extra), which is absent")
    # The working directory comes first on the path, so a copy is not mixed up with what is installed.
    return subprocess.run(
        [command, "--no-cache", "--config", folder / "pyproject.toml"],
        cwd=folder / "src",
        env={"PYTHONPATH": str(folder / "src"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


KEDRO_IN_THE_CORE = [
    (module, f"import {name}")
    for module in ("mechanisms.py", "counterfactuals/pools.py", "reporting/report.py")
    for name in ("kedro", "mlflow")
]
AGAINST_THE_LAYERS = [
    ("networks/discriminator.py", "import skdcgn_pipeline.students.distillation"),
    ("parameters/base.py", "import skdcgn_pipeline.mechanisms"),
    ("metrics/cost.py", "import skdcgn_pipeline.io.tracking"),
]


def test_the_import_contracts_are_kept(project):
    run = lint_imports(project)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"Contracts: 2 kept, 0 broken", run.stdout)


@pytest.fixture(scope="module")
def broken(project: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What is told of a copy with planted imports, by contract."""
    copy = tmp_path_factory.mktemp("planted")
    shutil.copytree(project / "src", copy / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    shutil.copy(project / "pyproject.toml", copy)
    for module, line in KEDRO_IN_THE_CORE + AGAINST_THE_LAYERS:
        path = copy / "src" / "skdcgn_pipeline" / module
        text = path.read_text(encoding="utf-8")
        path.write_text(text + f"\n\ndef _planted() -> None:\n    {line}\n", encoding="utf-8")
    run = lint_imports(copy)
    assert run.returncode != 0
    return " ".join(run.stdout.split())


@pytest.mark.parametrize(("module", "line"), KEDRO_IN_THE_CORE)
def test_kedro_and_mlflow_in_the_core_break_a_contract(broken, module, line):
    assert "The core knows neither Kedro nor MLflow BROKEN" in broken
    assert f"{dotted(module)} -> {line.removeprefix('import ')} (l." in broken


@pytest.mark.parametrize(("module", "line"), AGAINST_THE_LAYERS)
def test_an_import_against_the_layers_breaks_a_contract(broken, module, line):
    assert "Dependencies go one way BROKEN" in broken
    assert f"{dotted(module)} -> {line.removeprefix('import ')} (l." in broken


def test_no_other_room_than_images_knows_how_images_are_made(project):
    told = re.compile(r"is_imagenet|NUM_CLASSES|IMAGE_SIZE|== .imagenet.")
    source = project / "src" / "skdcgn_pipeline"
    telling = {path.relative_to(source).parts[0] for path in source.rglob("*.py") if told.search(path.read_text())}
    assert telling == {"images"}


def dotted(module: str) -> str:
    return "skdcgn_pipeline." + module.removesuffix(".py").replace("/", ".")


def test_every_core_module_is_under_the_contract(project):
    text = (project / "pyproject.toml").read_text(encoding="utf-8")
    forbidden = text[text.index("The core knows neither Kedro nor MLflow") :]
    rooms = {name.split(".")[1] for name in core_modules()}
    missing = sorted(room for room in rooms if f'"skdcgn_pipeline.{room}"' not in forbidden)
    assert missing == []
