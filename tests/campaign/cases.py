"""The wrong inputs of the campaign."""

from __future__ import annotations

import json
import os
import pickle
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file

from campaign.run import Case
from ports import free_port
from skdcgn_pipeline.artifacts.store import ArtifactWriter, build_artifact
from skdcgn_pipeline.explorer.bundle import CARD_FILE

RUN = ("run", "--env", "test")
SAMPLE = (*RUN, "--pipelines", "sample")
OWN = (*SAMPLE, "--conf-source", "{folder}/conf")
FOLDER = ("run", "--env", "folder", "--params", "images.folder={folder}/images")
CUSTOM = "teacher.name=custom,teacher.noise_dim=4,teacher.num_classes=10,teacher.image_size=32"


# --- configuration files ---


def write(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Return what writes a file of the configuration."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / "conf" / name).write_bytes(data)


def append(name: str, content: str) -> Callable[[Path], object]:
    """Return what adds lines to a file of the configuration."""

    def add(folder: Path) -> None:
        with (folder / "conf" / name).open("a", encoding="utf-8") as file:
            file.write(content)

    return add


def linked(name: str, to: str) -> Callable[[Path], object]:
    """Return what puts a link in the place of a file of the configuration."""

    def link(folder: Path) -> None:
        path = folder / "conf" / name
        path.unlink(missing_ok=True)
        path.symlink_to(to)

    return link


def made_folder(name: str) -> Callable[[Path], object]:
    """Return what puts a folder in the place of a file of the configuration."""

    def make(folder: Path) -> None:
        (folder / "conf" / name).unlink(missing_ok=True)
        (folder / "conf" / name).mkdir()

    return make


PARAMETERS, CATALOG, GLOBALS, MLFLOW = "test/parameters.yml", "base/catalog.yml", "test/globals.yml", "base/mlflow.yml"
FILES = {
    "a tab before a setting": (PARAMETERS, write(PARAMETERS, "sample:\n\tnum_images_per_class: 3\n")),
    "an open quote": (PARAMETERS, append(PARAMETERS, '\nassets: "data\n')),
    "an open bracket in the catalog": (CATALOG, append(CATALOG, "\nextra: {type: MemoryDataset\n")),
    "one setting twice": (PARAMETERS, append(PARAMETERS, "\nsample: {num_images_per_class: 3}\n")),
    "two documents": (GLOBALS, append(GLOBALS, "\n---\nvariant: colored\n")),
    "an anchor that is none": (PARAMETERS, append(PARAMETERS, "\nextra: *nothing\n")),
    "a text at the top": (PARAMETERS, write(PARAMETERS, "just words\n")),
    "a number at the top of globals": (GLOBALS, write(GLOBALS, "7\n")),
    "a list at the top of mlflow.yml": (MLFLOW, write(MLFLOW, "- server\n")),
    "UTF-32": (PARAMETERS, write(PARAMETERS, "seed: 1\n".encode("utf-32"))),
    "Latin-1": (PARAMETERS, append(PARAMETERS, "") and write(PARAMETERS, "assets: d\xe9p\xf4t\n".encode("latin-1"))),
    "a NUL": (PARAMETERS, write(PARAMETERS, b"seed: 1\x00\n")),
    "a link to itself": (PARAMETERS, linked(PARAMETERS, "parameters.yml")),
    "a folder in place of a file": (CATALOG, made_folder(CATALOG)),
    "an unknown resolver": (PARAMETERS, append(PARAMETERS, "\nassets: ${secret:word}\n")),
    "an interpolation of nothing": (PARAMETERS, append(PARAMETERS, "\nassets: ${nowhere.to.find}\n")),
    "an interpolation of itself": (PARAMETERS, append(PARAMETERS, "\nassets: ${assets}\n")),
    "an open interpolation": (GLOBALS, append(GLOBALS, "\nextra: ${project:data\n")),
    "a mandatory value": (PARAMETERS, append(PARAMETERS, "\nassets: ???\n")),
    "a section that is a list": (PARAMETERS, append(PARAMETERS, "\nprepare: [copies]\n")),
    "a name that is a number": (PARAMETERS, append(PARAMETERS, "\n3: seed\n")),
    "a name that is null": (PARAMETERS, append(PARAMETERS, "\nnull: seed\n")),
    "a tag that makes an object": (PARAMETERS, append(PARAMETERS, "\nextra: !!python/object/apply:os.getcwd []\n")),
    "a binary file": (PARAMETERS, write(PARAMETERS, bytes(range(256)))),
    "an address in mlflow.yml that is a list": (
        MLFLOW,
        write(MLFLOW, "server: {mlflow_tracking_uri: [a, b]}\ntracking: {experiment: {name: x}}\n"),
    ),
}
CONFIGURATION = [
    Case("configuration", name, OWN, says=(Path(file).name.partition(".")[0],), prepare=prepare)
    for name, (file, prepare) in FILES.items()
]


# --- settings ---

SETTINGS = {
    "seed=yes": "seed",
    "seed=1.5": "seed",
    "seed=-1": "seed",
    "seed=": "seed",
    "seed=[1]": "seed",
    "prepare.copies=true": "prepare.copies",
    "prepare=colored": "prepare",
    "shape=1": "shape",
    "shape.distill.batch_size=16.5": "shape.distill.batch_size",
    "shape.distill.student.width=[]": "width",
    "shape.distill.student.width=wide": "width",
    "sample.classes=[10]": "sample.classes",
    "sample.classes=0-99999999999": "sample.classes",
    "sample.classes=3-1": "sample.classes",
    "sample.shard_range=[2,1]": "sample.shard_range",
    "sample.num_images_per_class=1e12": "sample.num_images_per_class",
    "sample.rows_per_shard=0": "sample.rows_per_shard",
    "compute.device=gpu": "compute.device",
    "compute.device=cuda:99": "compute.device",
    "compute.precision=int4": "compute.precision",
    "classify.trained_on=[student,student]": "classify.trained_on",
    "classify.num_seeds=true": "classify.num_seeds",
    "ablation.study=[everything]": "ablation.study",
    "teacher.name=mine": "teacher.name",
    "teacher.factory=no_such_module:make": "teacher",
    "teacher.factory=os:getcwd,teacher.name=custom": "teacher",
    "images.source=cifar": "images.source",
    "samples.rows=3": "samples",
    "sample.rows_per_shards=3": "rows_per_shards",
    "variant=colourful": "variant",
    "assets=": "assets",
    "a": "--params",
    "=3": "--params",
    "a=...": "- a: unknown setting",
    "a.b.c=1": "- a: unknown setting",
    "sample.classes=[1": "--params",
    "seed={a:1": "--params",
    "seed=${oc.env:NO_SUCH_VARIABLE}": "seed",
    "seed=???": "seed",
    "seed=!!python/name:os.system": "seed",
}
PARAMS = [Case("settings", text, (*SAMPLE, "--params", text), says=(says,)) for text, says in SETTINGS.items()]

# --- numbers beyond the machine ---

HUGE = {
    "sample.num_images_per_class=1000000000": "sample",
    "shape.distill.batch_size=1000000000": "shape.distill.batch_size",
    "shape.distill.student.width=[1000000,1000000,1000000]": "width",
    "prepare.copies=1000000000": "prepare.copies",
    "classify.num_seeds=1000000000": "classify.num_seeds",
    "classify.fit.batch_size=1000000000000": "batch_size",
    "compose.num_images=1000000000000": "compose.num_images",
    "ablation.num_seeds=1000000000": "ablation.num_seeds",
    "report.num_examples=1000000": "report.num_examples",
    "compose.num_pool_images_per_class=1000000000000": "num_pool_images_per_class",
}
NUMBERS = [
    Case(
        "numbers",
        text,
        (*RUN, *(("--pipelines", "ablation") if says.startswith("ablation") else ()), "--params", text),
        (says,),
    )
    for text, says in HUGE.items()
]

# --- what is to be run ---

SELECTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown pipeline": ((*RUN, "--pipelines", "distil"), "distill"),
    "an empty pipeline": ((*RUN, "--pipelines", ""), "--pipeline"),
    "a comma of pipelines": ((*RUN, "--pipelines", ","), "--pipeline"),
    "an unknown environment": (("run", "--env", "tset"), "test"),
    "an empty environment": (("run", "--env", ""), "--env"),
    "an environment that leaves the folder": (("run", "--env", "../conf"), "--env"),
    "an unknown namespace": ((*RUN, "--namespaces", "colour"), "--namespaces"),
    "a namespace of another pipeline": ((*SAMPLE, "--namespaces", "shape"), "--namespaces"),
    "an unknown node": ((*SAMPLE, "--nodes", "open_teachers"), "open_teacher"),
    "an unknown node to start from": ((*SAMPLE, "--from-nodes", "no_node"), "--from-nodes"),
    "an unknown node to end with": ((*SAMPLE, "--to-nodes", "no_node"), "--to-nodes"),
    "an unknown input": ((*SAMPLE, "--from-inputs", "no_data"), "--from-inputs"),
    "an unknown output": ((*SAMPLE, "--to-outputs", "no_data"), "--to-outputs"),
    "an unknown tag": ((*SAMPLE, "--tags", "no_tag"), "--tags"),
    "a node whose inputs nobody made": ((*RUN, "--nodes", "distill.shape.distil_student"), "teacher_samples"),
    "a start in the middle of nothing": ((*RUN, "--from-nodes", "distill.assemble_students"), "shape_student"),
    "versions of unknown data": ((*SAMPLE, "--load-versions", "no_data:2026-01-01T00.00.00.000Z"), "no_data"),
    "an unknown version": (
        (*RUN, "--from-nodes", "distill.shape.distil_student", "--load-versions", "teacher_samples:1"),
        "",
    ),
    "a version without a name": ((*SAMPLE, "--load-versions", "2026"), "load_versions"),
    "a network that nobody has": (
        (*RUN, "--pipelines", "classify", "--params", "classify.network.architecture=resnet1800"),
        "architecture",
    ),
    "an unknown runner": ((*SAMPLE, "--runner", "FastRunner"), "--runner"),
    "a parallel runner": ((*SAMPLE, "--runner", "ParallelRunner"), "--runner"),
    "an unknown option": ((*SAMPLE, "--colour"), "--colour"),
    "a configuration that is no folder": ((*SAMPLE, "--conf-source", "{folder}/nothing"), "conf"),
    "a configuration that is empty": ((*SAMPLE, "--conf-source", "{folder}"), ""),
    "a port beyond all": (("explore", "--port", "99999", "--env", "test"), "port"),
    "an explorer of nothing": (("skdcgn_pipeline.explorer", "{folder}/nothing"), "nothing"),
}
WHAT = [Case("selection", name, command, says=(says,)) for name, (command, says) in SELECTIONS.items()]

# --- where everything is kept ---

ROOTS = {
    "a bracket": ("{folder}/a[1]", False),
    "a brace": ("{folder}/a{b}", False),
    "a star": ("{folder}/a*", False),
    "a space and an accent": ("{folder}/données à moi", True),
    "300 letters": ("{folder}/" + 300 * "x", False),
    "a file": ("{folder}/conf/base/catalog.yml", False),
    "below a file": ("{folder}/conf/base/catalog.yml/data", False),
    "an address of S3": ("s3://bucket/data", False),
    "an address of a file": ("file:///tmp/data", False),
    "a device": ("/dev/null", False),
    "what is no folder": ("/proc/self/data", False),
    "an interpolation": ("{folder}/${seed}", False),
}
PLACES = [
    Case("data root", name, SAMPLE, environment={"SKDCGN_DATA": root}, accepted=well)
    for name, (root, well) in ROOTS.items()
]

# --- MLflow ---


def database(write_into: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return what prepares the file of MLflow's database."""

    def replace(folder: Path) -> None:
        (folder / "mlflow.db").unlink()
        write_into(folder / "mlflow.db")

    return replace


def lock(path: Path) -> None:
    """Make a database that another process holds for two minutes."""
    code = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1]); c.execute('create table t (x)'); c.commit();"
        "c.execute('begin exclusive'); print('held', flush=True); time.sleep(120)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()


def newer(path: Path) -> None:
    """Make a database of an MLflow that is not yet."""
    with sqlite3.connect(path) as connection:
        connection.execute("create table alembic_version (version_num varchar(32) not null)")
        connection.execute("insert into alembic_version values ('ffffffffffff')")


DATABASES = {
    "of text": lambda path: path.write_text("no database\n" * 100),
    "empty": lambda path: path.touch(),
    "a folder": lambda path: path.mkdir(),
    "locked": lock,
    "of a newer MLflow": newer,
    "cut off": lambda path: path.write_bytes(b"SQLite format 3\x00" + bytes(500)),
}
ADDRESSES = {
    "an unknown scheme": "gopher://host/mlflow",
    "a database below a file": "sqlite:///{folder}/conf/base/catalog.yml/mlflow.db",
    "a server that is dead": "http://user:geheim@127.0.0.1:9",
    "a host that is none": "http://no.such.host.invalid:5000",
    "a port that is none": "http://127.0.0.1:port",
    "PostgreSQL without a driver": "postgresql://user:geheim@127.0.0.1/db",
    "capitals": "SQLITE:///mlflow.db",
    "spaces": "   ",
    "a folder": "{folder}/mlruns",
}
TRACKING = [
    Case("MLflow", f"a database {name}", SAMPLE, prepare=database(make), accepted=name == "empty")
    for name, make in DATABASES.items()
] + [
    Case("MLflow", name, SAMPLE, ("mlflow",), environment={"MLFLOW_TRACKING_URI": uri})
    for name, uri in ADDRESSES.items()
]

# --- servers that are ill ---

SERVER = """
import http.server, sys, time
status, body, drip = int(sys.argv[2]), sys.argv[3].encode(), sys.argv[4] == "drip"
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        if self.path == "/health" and not drip:
            self.send_response(200); self.end_headers(); self.wfile.write(b"OK"); return
        self.send_response(status); self.send_header("Content-Type", "application/json"); self.end_headers()
        for byte in body:
            self.wfile.write(bytes([byte])); self.wfile.flush()
            time.sleep(1 if drip else 0)
    do_GET = do_POST = answer
    def log_message(self, *words): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
import threading; threading.Timer(110, lambda: __import__("os")._exit(0)).start()
server.serve_forever()
"""


QUIET = {"start_new_session": True, "stderr": subprocess.DEVNULL}


def ill(name: str, status: int, body: str, drip: str = "") -> Case:
    """Return a case with a server that answers so."""
    port = free_port()

    def serve(folder: Path) -> None:
        subprocess.Popen([sys.executable, "-c", SERVER, str(port), str(status), body, drip], **QUIET)
        for _ in range(200):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    return

    address = f"http://user:geheim@127.0.0.1:{port}"
    return Case("server", name, SAMPLE, ("mlflow",), {"MLFLOW_TRACKING_URI": address}, serve)


SERVERS = [
    ill("that wants a password", 401, "{}"),
    ill("that forbids", 403, "{}"),
    ill("that knows nothing", 404, "{}"),
    ill("that is asked too often", 429, "{}"),
    ill("with an error", 500, "oops"),
    ill("that is busy", 503, ""),
    ill("of pages", 200, "<html>welcome</html>"),
    ill("of broken JSON", 200, '{"experiments": ['),
    ill("of other JSON", 200, '["experiments"]'),
    ill("that drips", 200, "x" * 100, "drip"),
]


# --- a teacher's file ---


class Marker:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = f"{path}.made"

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (self.path,)


class Program(torch.nn.Module):
    """A teacher as a function."""

    def forward(
        self, noise: torch.Tensor, shape: torch.Tensor, texture: torch.Tensor, background: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return flat images."""
        image = noise.tanh()[:, :3, None, None].expand(-1, 3, 32, 32)
        return image[:, :1] / 2 + 0.5, image, -image


def scripted(path: Path) -> None:
    """Write a TorchScript program."""
    torch.jit.save(torch.jit.script(Program()), str(path))


def exported(path: Path) -> None:
    """Write a `torch.export` program."""
    label = torch.zeros(2, dtype=torch.long)
    rows = torch.export.Dim("rows")
    arguments = (torch.zeros(2, 4), label, label, label)
    torch.export.save(torch.export.export(Program(), arguments, dynamic_shapes=({0: rows},) * 4), path)


TEACHERS: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "absent": ("teacher.safetensors", lambda path: None, "mnist_cgn"),
    "a folder": ("teacher.safetensors", Path.mkdir, "mnist_cgn"),
    "cut off": (
        "teacher.safetensors",
        lambda path: path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
        "mnist_cgn",
    ),
    "with a header beyond all": ("teacher.safetensors", lambda path: path.write_bytes(b"\xff" * 64), "mnist_cgn"),
    "of another network": ("teacher.safetensors", lambda path: save_file({"a": torch.zeros(3)}, path), "mnist_cgn"),
    "of tensors named to move the cursor": (
        "teacher.safetensors",
        lambda path: save_file({"\x1b[2Ja": torch.zeros(3)}, path),
        "mnist_cgn",
    ),
    "a pickle that makes a folder": (
        "teacher.pth",
        lambda p: p.write_bytes(pickle.dumps(Marker(f"{p}.made"))),
        "mnist_cgn",
    ),
    "a checkpoint that makes a folder": (
        "teacher.pth",
        lambda p: torch.save({"a": Marker(f"{p}.made")}, p),
        "mnist_cgn",
    ),
    "a program of TorchScript": ("teacher.pt", scripted, "custom"),
    "a program of torch.export": ("teacher.pt2", exported, "custom"),
    "text called ONNX": ("teacher.onnx", lambda path: path.write_text("no model"), "custom"),
    "of no known ending": ("teacher.h5", lambda path: path.write_bytes(b"\x89HDF"), "custom"),
}


def weights(name: str, file: str, make: Callable[[Path], object], kind: str) -> Case:
    """Return a case with the file of a teacher."""
    params = f"{CUSTOM if kind == 'custom' else f'teacher.name={kind}'},teacher.weights={{folder}}/{file}"
    says = "trust_program" if name.startswith("a program") else "teacher.weights"
    return Case("teacher", name, (*SAMPLE, "--params", params), (says,), prepare=lambda folder: make(folder / file))


WEIGHTS = [weights(name, *made) for name, made in TEACHERS.items()]


# --- a folder of images ---


def pictures(folder: Path, **files: bytes | None) -> None:
    """Make a small image set of two classes; other files beside, by name, None to leave one out."""
    for split in ("train", "test"):
        for number, label in enumerate(("ant", "bee")):
            for image in range(4):
                path = folder / "images" / split / label / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (64, 64), (100 * number, 30 * image, 50)).save(path)
    for name, content in files.items():
        path = folder / "images" / name.replace("__", "/")
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)


def changed(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """Return what makes the image set and then changes it."""

    def make(folder: Path) -> None:
        pictures(folder)
        change(folder / "images")

    return make


def table(content: str) -> Callable[[Path], object]:
    """Return what adds a table of attributes to the test images."""
    return changed(lambda images: (images / "test" / "metadata.csv").write_text(content, encoding="utf-8"))


def only_class(images: Path) -> None:
    """Leave one class."""
    for split in ("train", "test"):
        (images / split / "bee").rename(images.parent / f"away-{split}")


IMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: None, "images.folder"),
    "an empty folder": (lambda folder: (folder / "images").mkdir(), "images.folder"),
    "a file": (lambda folder: (folder / "images").write_text(""), "images.folder"),
    "no training images": (changed(lambda images: (images / "train").rename(images / "valid")), "train"),
    "one class": (changed(only_class), "class"),
    "another class in the test images": (changed(lambda i: (i / "test" / "bee").rename(i / "test" / "wasp")), "wasp"),
    "an image that is text": (changed(lambda i: (i / "train" / "ant" / "0.png").write_text("no image")), "0.png"),
    "an image that is cut off": (
        changed(
            lambda i: (i / "train" / "ant" / "0.png").write_bytes((i / "train" / "ant" / "1.png").read_bytes()[:60])
        ),
        "0.png",
    ),
    "an image that is empty": (changed(lambda i: (i / "test" / "ant" / "0.png").write_bytes(b"")), "0.png"),
    "an image that is a link to nothing": (
        changed(lambda i: (i / "test" / "ant" / "x.png").symlink_to("gone")),
        "x.png",
    ),
    "a table that names an absent file": (table("file_name,group\nant/99.png,1\n"), "99.png"),
    "a table without file names": (table("name,group\nant/0.png,1\n"), "file_name"),
    "a table with a row too long": (table("file_name,group\nant/0.png,1,2,3\n"), "metadata.csv"),
    "a table that leaves the folder": (table("file_name,group\n../train/ant/0.png,1\n"), "metadata.csv"),
}
OWN_IMAGES = [Case("images", name, FOLDER, (says,), prepare=make) for name, (make, says) in IMAGES.items()]


# --- what an explorer is given ---


def bundle(folder: Path, card: object) -> None:
    """Make a folder for the explorer with a card, whole as an artifact."""
    text = card if isinstance(card, str) else json.dumps(card)

    def write_card(writer: ArtifactWriter) -> None:
        writer.write(CARD_FILE, lambda path: path.write_text(text, encoding="utf-8"))

    made = build_artifact(folder / "store", {"kind": "explorer"}, write_card)
    made.directory.rename(folder / "bundle")


CARDS = {
    "that is no JSON": "{",
    "that is a list": [],
    "without anything": {},
    "of other things": {"teacher": 3, "students": [], "classes": {"a": "b"}},
}
EXPLORER = [
    Case(
        "explorer",
        f"a card {name}",
        ("skdcgn_pipeline.explorer", "{folder}/bundle", "--no-browser"),
        (CARD_FILE,),
        prepare=partial(bundle, card=card),
    )
    for name, card in CARDS.items()
]

CASES = [
    *CONFIGURATION,
    *PARAMS,
    *NUMBERS,
    *WHAT,
    *PLACES,
    *TRACKING,
    *SERVERS,
    *WEIGHTS,
    *OWN_IMAGES,
    *EXPLORER,
]
