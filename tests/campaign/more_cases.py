"""Wrong inputs of further kinds: none of them is in the list that the first cases were made from."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from campaign.cases import (
    CATALOG,
    CUSTOM,
    FOLDER,
    GLOBALS,
    MLFLOW,
    OWN,
    PARAMETERS,
    RUN,
    SAMPLE,
    append,
    bundle,
    changed,
    table,
    write,
)
from campaign.run import Case
from skdcgn_pipeline.explorer.bundle import CARD_FILE

PLAN = (*RUN, "--pipelines", "ablation", "--params")  # the fastest that reads all settings

# --- settings: forms of values, and values that do not go together ---

REFUSED = {
    "seed=0x10": "seed",
    "seed=٣": "seed",
    "seed=1e999": "seed",
    "seed=2026-01-01": "seed",
    "seed={}": "seed",
    "seed=[]": "seed",
    "seed=null": "seed",
    "Seed=1": "seed",
    "seed.value=1": "seed",
    "seed =x": "seed",
    "se\x1b[2Jed=1": "seed",
    "sample={num_images_per_class: [1]}": "sample.num_images_per_class",
    "sample=null": "sample",
    "sample.num_images_per_class=.inf": "sample.num_images_per_class",
    "sample.num_images_per_class=.nan": "sample.num_images_per_class",
    "sample.num_images_per_class=2.0000001": "sample.num_images_per_class",
    "sample.num_images_per_class=\u202e3": "sample.num_images_per_class",
    "sample.encoding=PNG": "sample.encoding",
    "sample.encoding=[png]": "sample.encoding",
    "sample.quality=101,sample.encoding=jpeg": "sample.quality",
    "sample.quality=50": "quality",
    "sample.classes=[]": "sample.classes",
    "sample.classes=[-1]": "sample.classes",
    "sample.classes=[true]": "sample.classes",
    "sample.classes=animals": "sample.classes",
    "sample.classes=0-": "sample.classes",
    "sample.classes=[0.5]": "sample.classes",
    "class_lists.few=[1,x]": "class_lists",
    "class_lists=[1]": "class_lists",
    "sample.shard_range=[0]": "sample.shard_range",
    "sample.shard_range=[0,1,2]": "sample.shard_range",
    "sample.shard_range=0-1": "sample.shard_range",
    "sample.encoding_threads=257": "sample.encoding_threads",
    "compute.precision=BF16": "compute.precision",
    "compute.device=cpu:0:0": "compute.device",
    "compute.device=": "compute.device",
    "shape.distill.student.architecture=tinyGAN": "architecture",
    "shape.distill.student.width=[8,8,8,8,8,8,8,8,8]": "width",
    "shape.distill.student.width=[0,8,8]": "width",
    "shape.distill.student.embedding_dim=0": "embedding_dim",
    "shape.distill.weights.pixels=1": "pixel",
    "shape.distill.weights.pixel=-1": "pixel",
    "shape.distill.learning_rate=0": "learning_rate",
    "shape.distill.betas=[0.5]": "betas",
    "texture.distill.ema_decay=1": "ema_decay",
    "prepare.validation_fraction=1": "prepare.validation_fraction",
    "prepare.binarise_threshold=on": "prepare.binarise_threshold",
    "compose.composition.patch_shift=shape": "patch_shift",
    "compose.composition.counterfactual.shape=same": "counterfactual.shape",
    "compose.composition.transformations.shape=[{kind: twirl}]": "twirl",
    "compose.composition.transformations.shape=[{kind: grey, strength: 1}]": "grey",
    "compose.composition.transformations.shape=[{kind: opacity, strength: 2}]": "opacity",
    "compose.composition.transformations.texture=[{kind: blur, strength: .nan}]": "strength",
    "compose.composition.transformations.colour=[]": "colour",
    "compose.interpolation.last=10": "interpolation",
    "compose.interpolation.num_steps=1": "num_steps",
    "classify.trained_on=[]": "classify.trained_on",
    "classify.trained_on=originals teacher": "classify.trained_on",
    "classify.share_of_originals=1": "share_of_originals",
    "classify.fit.optimiser=adam": "optimiser",
    "classify.network.heads=mechanism": "heads",
    "images.bias_share=1.01": "bias_share",
    "images.source=folder": "'folder'",
    "images.image_size=0": "image_size",
    "report.num_examples=41": "num_examples",
    "teacher.trust_program=maybe": "trust_program",
    "teacher.weights=[a,b],teacher.name=mnist_cgn": "teacher.weights",
    "teacher.factory=os.getcwd,teacher.name=custom": "teacher",
    "teacher.factory=:make,teacher.name=custom": "teacher",
    "teacher.factory=os:,teacher.name=custom": "teacher",
    "teacher.factory=..os:getcwd,teacher.name=custom": "teacher",
    "teacher.name=custom": "teacher",
    f"{'a' * 5000}=1": "aaaa",
    f"seed={'[' * 2000}": "--params",
    "seed=${seed}": "seed",
    "seed=*anchor": "seed",
    "sample..classes=1": "sample",
    ".seed=1": "--params",
    "seed.=1": "seed",
    "seed[0]=1": "seed",
}
IN_THE_PLAN = {
    "ablation.plan=true,ablation.num_seeds=1": "num_seeds",
    "ablation.plan=true,ablation.max_cells=3": "max_cells",
    "ablation.plan=true,ablation.mixing.originals_shares=[1.5]": "originals_shares",
    "ablation.plan=true,engine.workers=257": "workers",
    "ablation.plan=true,ablation.counts.per_shape=[0]": "per_shape",
    "ablation.plan=true,ablation.losses.terms=[pixels]": "terms",
    "ablation.plan=true,ablation.stage.transformations=[]": "stage.transformations",
    "ablation.plan=True,ablation.plan=perhaps": "ablation.plan",
}
REFUSED |= {
    f"images.folder={'x' * 300},images.source=folder": "images.folder",
    f"assets={'é' * 200}": "assets",
    f"teacher.weights={{shape: {'x' * 300}}}": "teacher.weights",
    f"name={'n' * 300}": "name",
    f"classify.weights={'a/' * 3000}": "classify",
    f"evaluate.classifier={'x' * 300}": "evaluate.classifier",
}
TAKEN = {
    "ablation.plan=true,seed=010": "a number with a zero before it",
    "ablation.plan=true,seed=1_000": "a number with an underscore",
    "ablation.plan=true,ablation.study=[mixing,mixing]": "a study twice",
    "ablation.plan=true,seed=123456789012345678901234567890": "a seed of thirty digits",
    "ablation.plan=true,seed=-0.0": "a zero below zero",
    "ablation.plan=true,seed='1'": "a number in quotes",
    "ablation.plan=true,,": "commas behind",
    "ablation.plan=true , seed = 3": "spaces",
    "ablation.plan=true,class_lists.few=[1,2],sample.classes=few": "a list by name",
    "ablation.plan=true,sample.classes=[1,1]": "a class twice",
    "ablation.plan=true,ablation.source=teacher": "a name",
    "ablation.plan=true,compute.device=cpu": "a device",
}
VALUES = [
    *(Case("values", repr(text[:90]), (*SAMPLE, "--params", text), says=(says,)) for text, says in REFUSED.items()),
    *(Case("values", text, (*PLAN, text), says=(says,)) for text, says in IN_THE_PLAN.items()),
    *(Case("values", name, (*PLAN, text), accepted=True) for text, name in TAKEN.items()),
]

# --- files of the configuration ---


def several(*makers: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return what prepares one thing after the other."""
    return lambda folder: [make(folder) for make in makers]


LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)
)
FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "brackets 5,000 deep": (append(PARAMETERS, "\nextra: " + "[" * 5000 + "]" * 5000 + "\n"), "parameters"),
    "anchors that double without end": (append(PARAMETERS, LAUGHS), "parameters"),
    "a pipe that nobody writes into": (lambda f: os.mkfifo(f / "conf" / "base" / "parameters_pipe.yml"), "parameters"),
    "JSON that is none": (write("test/parameters_more.json", '{"seed": 1 "a"}'), "seed"),
    "one setting in two files": (write("test/parameters_more.yml", "compute: {device: cpu}\n"), "compute"),
    "an unknown kind of dataset": (append(CATALOG, "\nextra: {type: pandas.TableDataset}\n"), "extra"),
    "a dataset without a type": (append(CATALOG, "\nextra: {filepath: x}\n"), "extra"),
    "a dataset with an unknown option": (
        append(CATALOG, "\nteacher_samples: {type: MemoryDataset, colour: red}\n"),
        "teacher_samples",
    ),
    "a dataset that is a number": (append(CATALOG, "\nextra: 3\n"), "extra"),
    "credentials that are no YAML": (write("base/credentials.yml", "a: [\n"), "credentials"),
    "globals without a data root": (write("base/globals.yml", "seed: 1\n"), ""),
    "a data root that is a list": (write(GLOBALS, "data: [a]\n"), "data"),
    "mlflow.yml with an unknown name": (append(MLFLOW, "\nservers: {}\n"), "servers"),
    "a set": (append(PARAMETERS, "\nclass_lists: !!set {a, b}\n"), "class_lists"),
    "bytes": (append(PARAMETERS, "\nassets: !!binary aGk=\n"), "assets"),
    "a time": (append(PARAMETERS, "\nseed: 2026-01-01 10:00:00\n"), "seed"),
    "an unknown tag": (append(PARAMETERS, "\nseed: !mine 3\n"), "parameters"),
    "a directive": (append(PARAMETERS, "%YAML 9.9\n---\nseed: 3\n"), "parameters"),
    "a resolver of the shell": (append(PARAMETERS, "\nassets: ${shell:ls}\n"), "assets"),
    "a resolver within a resolver": (append(PARAMETERS, "\nassets: ${oc.env:${oc.env:NO_SUCH}}\n"), "assets"),
    "a control sequence in a name": (append(PARAMETERS, '\n"se\\e[2Jed": 3\n'), "ed"),
}
WELL = {
    "lines that end as on Windows": lambda f: (f / "conf" / PARAMETERS).write_bytes(
        (f / "conf" / PARAMETERS).read_bytes().replace(b"\n", b"\r\n")
    ),
    "a mark of UTF-8 at the start": lambda f: (f / "conf" / PARAMETERS).write_bytes(
        b"\xef\xbb\xbf" + (f / "conf" / PARAMETERS).read_bytes()
    ),
    "an empty file": write("test/parameters_more.yml", ""),
    "comments alone": write("test/parameters_more.yml", "# nothing\n"),
    "a hidden file of an editor": write("test/.parameters.yml.swp", b"\x00\xff"),
    "a file for people": write("test/README.md", "parameters: {\n"),
}
PLAN_OWN = (*PLAN, "ablation.plan=true", "--conf-source", "{folder}/conf")
CONFIGURATION = [
    *(Case("files", name, OWN, says=(says,), prepare=make) for name, (make, says) in FILES.items()),
    *(Case("files", name, PLAN_OWN, prepare=make, accepted=True) for name, make in WELL.items()),
]

# --- the environment ---

ENVIRONMENT: dict[str, tuple[dict[str, str], bool]] = {
    "a device that is none": ({"CUDA_VISIBLE_DEVICES": "99"}, True),
    "threads that are no number": ({"OMP_NUM_THREADS": "many"}, True),
    "no home": ({"HOME": "/nonexistent"}, True),
    "a narrow terminal": ({"COLUMNS": "1"}, True),
    "a language of ASCII": ({"LC_ALL": "C", "LANG": "C"}, True),
    "an unknown time zone": ({"TZ": "Nowhere/Land"}, True),
    "a proxy that is dead": ({"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}, True),
    "kernels of another number": ({"SKDCGN_KERNELS": "2"}, True),
    "a run of MLflow that is none": ({"MLFLOW_RUN_ID": "abc"}, True),
    "an environment of Kedro that is none": ({"KEDRO_ENV": "nowhere"}, True),  # --env is given
    "a rank that is a word": ({"RANK": "first", "WORLD_SIZE": "1"}, True),
}
SURROUNDINGS = [
    Case("environment", name, (*PLAN, "ablation.plan=true"), environment=variables, accepted=well)
    for name, (variables, well) in ENVIRONMENT.items()
]

# --- other commands ---


def listed(folder: Path) -> None:
    """Write what a run is to be, as a list."""
    (folder / "run.yml").write_text("- sample\n", encoding="utf-8")


COMMANDS: dict[str, tuple[tuple[str, ...], str, Callable[[Path], object]]] = {
    "words behind run": ((*SAMPLE, "now"), "now", lambda f: None),
    "an absent file of a run": ((*RUN, "--config", "{folder}/run.yml"), "run.yml", lambda f: None),
    "a file of a run that is a list": ((*RUN, "--config", "{folder}/run.yml"), "", listed),
    "a file of a run that is text": (
        (*RUN, "--config", "{folder}/run.yml"),
        "",
        lambda f: (f / "run.yml").write_text("run: {pipelines: [}\n"),
    ),
    "parameters of a runner that are none": ((*SAMPLE, "--runner-params", "speed=3"), "speed", lambda f: None),
    "workers that are none": (
        (*SAMPLE, "--runner", "ThreadRunner", "--runner-params", "max_workers=0"),
        "max_workers",
        lambda f: None,
    ),
    "a port of letters": (("explore", "--port", "abc"), "port", lambda f: None),
    "a port below all": (("explore", "--port", "-1"), "port", lambda f: None),
    "a folder that is there already": (("skdcgn_pipeline.__main__", "init", "{folder}"), "conf", lambda f: None),
    "init of nothing": (("skdcgn_pipeline.__main__", "init"), "init", lambda f: None),
    "init below a file": (("skdcgn_pipeline.__main__", "init", "{folder}/mlflow.db/x"), "", lambda f: None),
    "assets into a file": (("skdcgn_pipeline.images.assets", "{folder}/mlflow.db"), "mlflow.db", lambda f: None),
    "assets of an unknown group": (
        ("skdcgn_pipeline.images.assets", "{folder}/a", "--groups", "cats"),
        "cats",
        lambda f: None,
    ),
    "assets of a mirror that is none": (
        ("skdcgn_pipeline.images.assets", "{folder}/a", "--mirror", "gopher://user:geheim@host"),
        "mirror",
        lambda f: None,
    ),
    "several processes of an unknown mechanism": (
        ("skdcgn_pipeline.distil_parallel", "--env", "test", "colour"),
        "mechanism",
        lambda f: None,
    ),
    "several processes in an unknown environment": (
        ("skdcgn_pipeline.distil_parallel", "--env", "tset"),
        "test",
        lambda f: None,
    ),
    "several processes of a wrong setting": (
        ("skdcgn_pipeline.distil_parallel", "--env", "test", "--params", "seed=x"),
        "seed",
        lambda f: None,
    ),
    "prune of fewer than one": (
        (*RUN, "--pipelines", "prune", "--params", "keep_last=0"),
        "keep_last",
        lambda f: None,
    ),
    "an export of unknown students": (
        (*RUN, "--pipelines", "export", "--params", "export.students=didgits"),
        "digits",
        lambda f: None,
    ),
    "assets of an unknown group in a run": (
        (*RUN, "--pipelines", "fetch", "--params", "fetch.groups=[cats]"),
        "cats",
        lambda f: None,
    ),
    "features that are nowhere": (
        (
            *RUN,
            "--pipelines",
            "prepare",
            "--params",
            "prepare.given_features={architecture: resnet18, weights: {folder}/no.pth}",
        ),
        "no.pth",
        lambda f: None,
    ),
}
OTHERS = [Case("command", name, command, (says,), prepare=make) for name, (command, says, make) in COMMANDS.items()]

# --- what is in the data root already ---


def stored(name: str, content: str | None = "") -> Callable[[Path], object]:
    """Return what puts a file below the data root, or a folder where there is no content."""

    def put(folder: Path) -> None:
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_text(content, encoding="utf-8")

    return put


VERSION = "2026-01-01T00.00.00.000Z"
POINTER = "03_samples/double_colored/teacher_samples.json/" + VERSION + "/teacher_samples.json"
DISTIL = (*RUN, "--nodes", "distill.shape.distil_student")
DATA: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "a store that is a file": (stored("stores"), SAMPLE, ""),
    "a kind of a store that is a file": (stored("stores/sample"), SAMPLE, ""),
    "a lock that is a folder": (stored(".runs.lock", None), SAMPLE, ""),
    "samples that are no JSON": (stored(POINTER, "{"), DISTIL, "teacher_samples"),
    "samples that are a list": (stored(POINTER, "[]"), DISTIL, "teacher_samples"),
    "samples that point to nothing": (
        stored(POINTER, '{"identity": "a", "directory": "../../gone", "inputs": {}}'),
        DISTIL,
        "teacher_samples",
    ),
    "samples that point to text": (stored(POINTER, '{"directory": 3}'), DISTIL, "teacher_samples"),
    "a version that is a file": (stored(str(Path(POINTER).parent)), DISTIL, "teacher_samples"),
}
KEPT = [Case("data", name, command, (says,), prepare=make) for name, (make, command, says) in DATA.items()]

# --- a teacher that a factory makes ---

HEAD = """import sys, torch
from skdcgn_pipeline import MechanismImages
class Teacher:
    noise_dim, num_classes, image_size = 4, 10, 32
    def render(self, noise, labels):
        z = noise[:, :1, None, None].tanh().expand(-1, 3, 32, 32)
        return MechanismImages(z[:, :1] / 2 + 0.5, z, -z)
"""
FACTORIES = {
    "with an error of syntax": "def make(:\n",
    "that ends the program": "import sys\nsys.exit(0)\n",
    "that is interrupted by itself": "def make():\n    raise SystemExit(0)\n",
    "that fails": "def make():\n    return 1 / 0\n",
    "that wants arguments": "def make(a, b):\n    return None\n",
    "that is no function": "make = 3\n",
    "that makes nothing": "def make():\n    return None\n",
    "that makes a class": HEAD + "def make():\n    return Teacher\n",
    "without a noise": HEAD + "class T(Teacher):\n    noise_dim = 0\nmake = T\n",
    "with a noise of text": HEAD + "class T(Teacher):\n    noise_dim = '4'\nmake = T\n",
    "with classes without end": HEAD + "class T(Teacher):\n    num_classes = float('inf')\nmake = T\n",
    "with a size that is true": HEAD + "class T(Teacher):\n    image_size = True\nmake = T\n",
    "that renders nothing": HEAD + "class T(Teacher):\n    def render(self, noise, labels):\n        pass\nmake = T\n",
    "that renders a tuple": HEAD
    + "class T(Teacher):\n    def render(self, noise, labels):\n        return (noise, noise)\n"
    + "make = T\n",
    "whose images are no numbers": HEAD
    + "class T(Teacher):\n    def render(self, noise, labels):\n        m, f, b = super().render(noise, labels)\n"
    + "        return MechanismImages(m, f * float('nan'), b)\nmake = T\n",
    "whose images are too bright": HEAD
    + "class T(Teacher):\n    def render(self, noise, labels):\n        m, f, b = super().render(noise, labels)\n"
    + "        return MechanismImages(m, f * 9, b)\nmake = T\n",
    "of another size than it says": HEAD + "class T(Teacher):\n    image_size = 64\nmake = T\n",
    "of bytes": HEAD
    + "class T(Teacher):\n    def render(self, noise, labels):\n        m, f, b = super().render(noise, labels)\n"
    + "        return MechanismImages(m.byte(), f.byte(), b.byte())\nmake = T\n",
    "that calls itself": "def make():\n    return make()\n",
    "that draws at random": HEAD
    + "class T(Teacher):\n    def render(self, noise, labels):\n"
    + "        return super().render(torch.randn_like(noise), labels)\nmake = T\n",
    "that imports what is not there": "import no_such_module_at_all\n",
    "whose error moves the cursor": "def make():\n    raise ValueError('\\x1b[2J')\n",
}


def factory(name: str, code: str) -> Case:
    """Return a case with the module of a factory."""
    params = "teacher.name=custom,teacher.factory=case_module:make"
    return Case(
        "factory",
        name,
        (*SAMPLE, "--params", params),
        ("teacher",),
        prepare=lambda folder: (folder / "case_module.py").write_text(code, encoding="utf-8"),
    )


MADE = [factory(name, code) for name, code in FACTORIES.items()]


# --- weights ---


def header_alone(path: Path, header: object) -> None:
    """Write a safetensors file of a header without tensors."""
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


WEIGHTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "an archive of nothing": ("teacher.pth", lambda p: zipfile.ZipFile(p, "w").close()),
    "a header that is a list": ("teacher.safetensors", lambda p: header_alone(p, [1])),
    "tensors beyond the file": (
        "teacher.safetensors",
        lambda p: header_alone(p, {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    ),
    "no tensor": ("teacher.safetensors", lambda p: save_file({}, p)),
    "a state dict that is a tensor": ("teacher.pth", lambda p: torch.save(torch.zeros(3), p)),
    "a state dict of numbers": ("teacher.pth", lambda p: torch.save({"a": 3, 4: [5]}, p)),
    "an empty file": ("teacher.pth", Path.touch),
    "a link to itself": ("teacher.safetensors", lambda p: p.symlink_to(p)),
    "a name of 300 letters": (300 * "x" + ".pth", lambda p: None),
    "a device": ("../../../dev/zero", lambda p: None),
}
FILES_OF_WEIGHTS = [
    Case(
        "weights",
        name,
        (*SAMPLE, "--params", f"teacher.name=mnist_cgn,teacher.weights={{folder}}/{file}"),
        ("teacher.weights",),
        prepare=partial(lambda folder, file, make: make(folder / file), file=file, make=make),
    )
    for name, (file, make) in WEIGHTS.items()
] + [
    Case(
        "weights",
        "a program of ONNX that says too little",
        (*SAMPLE, "--params", f"{CUSTOM},teacher.weights={{folder}}/t.onnx".replace("teacher.noise_dim=4,", "")),
        ("noise_dim",),
        prepare=lambda folder: (folder / "t.onnx").write_bytes(b""),
    )
]


# --- images ---


def picture(name: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return what makes the image set with one more file among the training images."""

    def add(images: Path) -> None:
        path = images / "train" / "ant" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        make(path)

    return changed(add)


def bomb(path: Path) -> None:
    """Write a PNG of a few kilobytes that says that it is of 60,000 by 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def masked(mask: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return what gives all training images one mask: with fewer, none is used."""

    def add(images: Path) -> None:
        names = [f"{label}/{number}.png,m.png" for label in ("ant", "bee") for number in range(4)]
        table = "\n".join(["file_name,mask_file_name", *names])
        (images / "train" / "metadata.csv").write_text(table, encoding="utf-8")
        mask(images / "train" / "m.png")

    return changed(add)


SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a picture that says it is huge": (picture("x.png", bomb), "x.png"),
    "an archive called a picture": (picture("x.png", lambda p: zipfile.ZipFile(p, "w").close()), "x.png"),
    "a drawing called a picture": (picture("x.png", lambda p: p.write_text(SVG)), "x.png"),
    "a pipe called a picture": (picture("x.png", os.mkfifo), "x.png"),
    "a name that moves the cursor": (picture("x\x1b[2J.png", lambda p: p.write_text("")), "x"),
    "a name in two lines": (picture("x\ny.png", lambda p: p.write_text("")), "x"),
    "a training split that is a file": (
        changed(lambda i: ((i / "train").rename(i.parent / "away"), (i / "train").write_text(""))),
        "train",
    ),
    "a table in Latin-1": (
        changed(lambda i: (i / "test" / "metadata.csv").write_bytes(b"file_name,group\nant/\xe9.png,1\n")),
        "metadata.csv",
    ),
    "a table with a NUL": (
        changed(lambda i: (i / "test" / "metadata.csv").write_bytes(b"file_name,group\nant/0.png,\x00\n")),
        "metadata.csv",
    ),
    "an empty table": (table(""), "metadata.csv"),
    "a table that names an image twice": (table("file_name,group\nant/0.png,1\nant/0.png,2\n"), "0.png"),
    "a table with one column twice": (table("file_name,group,group\nant/0.png,1,2\n"), "group"),
    "a table with an open quote": (table('file_name,group\n"ant/0.png,1\n'), "metadata.csv"),
    "a table that is a folder": (changed(lambda i: (i / "test" / "metadata.csv").mkdir()), "metadata.csv"),
    "a table with an absolute path": (table("file_name,group\n/etc/passwd,1\n"), "metadata.csv"),
    "a mask that is not there": (masked(lambda p: None), "m.png"),
    "a mask that is text": (masked(lambda p: p.write_text("no image")), "m.png"),
    "a mask of another size": (masked(lambda p: Image.new("L", (7, 9), 255).save(p)), "m.png"),
    "a mask that is a link to a database": (
        masked(lambda p: p.symlink_to("../../mlflow.db")),
        "m.png",
    ),
}
PICTURES = [Case("pictures", name, FOLDER, (says,), prepare=make) for name, (make, says) in IMAGES.items()] + [
    Case(
        "pictures",
        "a folder called a picture",
        (*FOLDER[:3], "--pipelines", "prepare", "--params", f"{FOLDER[-1]},prepare.feature_network.num_images=64"),
        prepare=picture("x.png", Path.mkdir),
        accepted=True,
    )
]

# --- a folder for the explorer ---

CARD = {
    "name": "x",
    "variant": "double_colored",
    "source": "digits",
    "seed": 0,
    "teacher": {"identity": {}, "options": {}, "file": None},
    "classes": None,
    "fidelity_and_costs": [],
    "classifiers": {},
}
CARDS: dict[str, object] = {
    "with classes that are text": CARD | {"classes": ["a"]},
    "with no class": CARD | {"classes": []},
    "with a seed without end": json.dumps(CARD | {"seed": float("inf")}),
    "of a classifier that nobody knows": CARD | {"classifiers": {"wizards": {"accuracy": []}}},
    "with a file outside of the folder": CARD | {"teacher": {"identity": {}, "options": {}, "file": "../teacher.pt"}},
    "that is deep": "[" * 100_000,
    "that is binary": "\x00\x01",
    "with an unknown teacher": CARD | {"teacher": {"identity": {}, "options": {"name": "wizard"}, "file": None}},
    "without students": CARD,
    "with a name that moves the cursor": CARD | {"name": "\x1b[2J"},
}
SHOWN = [
    Case(
        "card",
        name,
        ("skdcgn_pipeline.explorer", "{folder}/bundle", "--no-browser"),
        prepare=partial(bundle, card=card),
    )
    for name, card in CARDS.items()
] + [
    Case(
        "card",
        "that is a folder",
        ("skdcgn_pipeline.explorer", "{folder}", "--no-browser"),
        (CARD_FILE,),
        prepare=lambda folder: (folder / CARD_FILE).mkdir(),
    )
]

# --- what a served model is asked ---

SERVED = ("campaign.served", "{folder}/..")


def rows(count: int = 1, **values: object) -> str:
    """Return a request for images of the students."""
    row = {"seed": 1, "shape": 3, "texture": 1, "background": 5} | values
    return json.dumps({"dataframe_split": {"columns": list(row), "data": [list(row.values())] * count}})


def pixels(*shape: int, value: float | str | None = 0) -> str:
    """Return a request for the labels of pixels."""
    array: object = value
    for size in reversed(shape):
        array = [array] * size
    return json.dumps({"inputs": array})


ASKED: dict[str, tuple[str, str, str]] = {
    "a fraction as a class": ("students", rows(shape=0.5), "whole numbers"),
    "a class that there is not": ("students", rows(texture=10), "texture"),
    "a class below zero": ("students", rows(background=-1), "background"),
    "a class that is text": ("students", rows(shape="three"), "shape"),
    "a class that is true": ("students", rows(shape=True), "shape"),
    "a class that is null": ("students", rows(shape=None), "shape"),
    "a class that is a list": ("students", rows(shape=[3]), "shape"),
    "a seed beyond 64 bits": ("students", rows(seed=2**70), "seed"),
    "a seed without end": ("students", rows(seed=float("inf")), "seed"),
    "more images than the limit": ("students", rows(501), "at most 500"),
    "no image at all": ("students", rows(0), "num_images"),
    "a column too few": ("students", json.dumps({"dataframe_split": {"columns": ["seed"], "data": [[1]]}}), "shape"),
    "a column too many of one name": (
        "students",
        json.dumps({"dataframe_split": {"columns": ["seed", "shape", "shape"], "data": [[1, 2, 3]]}}),
        "shape",
    ),
    "rows of other lengths": (
        "students",
        json.dumps({"dataframe_split": {"columns": ["seed", "shape"], "data": [[1], [1, 2]]}}),
        "",
    ),
    "a limit of text": ("students", rows()[:-1] + ', "params": {"max_images": "many"}}', "max_images"),
    "no JSON": ("students", "{", "JSON"),
    "a list": ("students", "[1]", "list"),
    "nothing": ("students", "", ""),
    "bytes that are no text": ("students", "@{folder}/body", ""),
    "JSON of 5,000 brackets": ("students", "@{folder}/deep", "nested"),
    "an object of 5,000 objects": ("classifier", "@{folder}/deeper", "nested"),
    "pixels in fractions": ("classifier", pixels(1, 32, 32, 3, value=0.5), "whole numbers"),
    "pixels beyond 255": ("classifier", pixels(1, 32, 32, 3, value=256), "pixels"),
    "pixels that are text": ("classifier", pixels(1, 32, 32, 3, value="a"), "pixels"),
    "pixels that are null": ("classifier", pixels(1, 32, 32, 3, value=None), "pixels"),
    "one image without a number": ("classifier", pixels(32, 32, 3), "shape"),
    "images of another size": ("classifier", pixels(1, 16, 32, 3), "32"),
    "images of four channels": ("classifier", pixels(1, 32, 32, 4), ""),
    "images without pixels": ("classifier", pixels(1, 0, 0, 3), ""),
    "more pixels than the limit": ("classifier", pixels(501, 32, 32, 3), "at most 500"),
    "a table in place of pixels": ("classifier", rows(), "images"),
}


def bodies(folder: Path) -> None:
    """Write the requests that no command line can hold."""
    (folder / "body").write_bytes(b"\xff\xfe{")
    (folder / "deep").write_text('{"dataframe_split": ' + "[" * 5000 + "]" * 5000 + "}", encoding="utf-8")
    (folder / "deeper").write_text('{"a":' * 5000 + "1" + "}" * 5000, encoding="utf-8")


SERVING = [
    Case("served", name, (*SERVED, kind, body), (says,), prepare=bodies) for name, (kind, body, says) in ASKED.items()
] + [
    Case("served", "images", (*SERVED, "students", rows()), accepted=True),
    Case("served", "labels", (*SERVED, "classifier", pixels(2, 32, 32, 3)), accepted=True),
    Case("served", "a picture in place of JSON", (*SERVED, "students", "GIF89a", "image/gif"), ("content type",)),
]

MORE = [
    *VALUES,
    *CONFIGURATION,
    *SURROUNDINGS,
    *OTHERS,
    *KEPT,
    *MADE,
    *FILES_OF_WEIGHTS,
    *PICTURES,
    *SHOWN,
    *SERVING,
]
