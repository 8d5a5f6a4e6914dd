"""Configs and command lines as accidents and strangers make them: hypothesis strategies."""

import copy

import yaml
from hypothesis import strategies as st

from gan_core.overrides import load, merge, validate
from pipelines.config import CONFIGS, JobConfig, packaged

GARBAGE = [
    *(None, True, False, 0, -1, 1, 2, 10**30, -(10**30), 1e308, 1e-308, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        " ",
        "x" * 5000,
        "é漢字\u202e",
        "../..",
        "/etc/passwd",
        "5:1",
        "0:1",
        "9" * 200 + ":1",
        "NaN",
        "-",
        "hinge",
        "wgan_gp",
        "%s%n",
        "'",
    ),
    *(
        '"',
        "\n",
        "http://[::1",
        "http://x:99999999",
        "s3://bucket/x?secret_key=planted",
        "s3://u:planted@h/x",
        "databricks",
        "__init__",
        "os",
    ),
    *([], {}, [[]], {"a": {"b": [1, {"c": None}]}}, [1, 2, 3], ["a"], {"name": "dcgan"}, {"name": None}, {1: 2}, {None: 1}, {True: 0}),
    *(b"bytes", "9" * 5000, "dcgan", "frechet_distance", "1e5", "\x1b[31m"),
]
INSERTED = [
    *(
        b"!!python/object/apply:os.system ['touch canary']",
        b"!!python/name:os.system",
        b"&a [*a]",
        b"? ",
        b"\t",
        b"\x00",
        b"\xff",
        b"<<: *x",
    ),
    *(
        b": :",
        b"- ",
        b"{",
        b"[",
        b"'",
        b"9" * 5000,
        b"!!binary x",
        b"!!timestamp 2001-99-99",
        b"!!float x",
        b"!!int x",
        b"!!bool x",
        b"!!set {a}",
    ),
    *(b"!!omap 1", b"[" * 3000, b"\n---\n", b"%YAML 9\n---\n", b"\r", b"\xe2\x80\xae"),
]
WORDS = [
    *(
        "",
        "0",
        "-1",
        "1",
        "2",
        "1e999",
        "nan",
        "inf",
        "9" * 400,
        "é",
        "\u202e",
        "..",
        "../../x",
        "/etc/passwd",
        "/dev/null",
        "a\nb",
        "'",
        '"',
    ),
    *("';DROP TABLE runs;--", "[1", "{}", "[]", "null", "true", "5:1", "s3://u:planted@h/x", "http://u:planted@h", "models:/x", "models:/"),
    *(
        "runs:/",
        "runs:/x/y",
        "runs://",
        "models://",
        "sqlite:////nonexist/x",
        "sqlite:///",
        "x" * 5000,
        "--",
        "-",
        "-x",
        "$(id)",
        "`id`",
        "%s",
    ),
    *(
        "\\",
        "C:\\x",
        "=",
        "==",
        "a.b=",
        "a..b=1",
        ".=1",
        "a b=1",
        "digits",
        "ring2d",
        "loss_x_ratio",
        "smoke",
        "smoke+smoke",
        "+",
        "\ud800",
    ),
    *(
        "data.name=x",
        "total_kimg=nan",
        "total_kimg=",
        "step_ratio=0:0",
        "loss.name=[hinge,r3gan]",
        "loss.name=[]",
        "loss=1",
        "network.name=",
    ),
    *(
        "network.name=../x",
        "data.name=__init__",
        "data.name=_cache",
        "network.name=dcgan.x",
        "evaluation.metrics=[fid]",
        "evaluation.metrics=x",
    ),
    *(
        "mlflow.tracking_uri=x://y",
        "mlflow.tracking_uri=http://[",
        "mlflow.tracking_uri=postgresql://u:planted@h/d",
        "mlflow.tracking_uri=[1]",
    ),
    *(
        "mlflow.experiment=",
        "mlflow.run_name=a\nb",
        "ray.storage_path=",
        "ray.storage_path=~nobody9/x",
        "ray.storage_path=://",
        "data.path=[1]",
    ),
    *("sweep.name=../x", "sweep.name=..", "sweep.trials=0", "sweep.trials=1e9", "sweep.search=x", "sweep.scheduler=pbt", "batch_size=0"),
    *(
        "batch_size=1000000000000000000000",
        "seed=-1",
        "seed=99999999999999999999999",
        "extractor.name=x",
        "name=../x",
        "name=..",
        "fake_count=1",
    ),
    *(
        "fake_count=99999999999999999999",
        "split=x",
        "--resume",
        "--help",
        "--out",
        "--num",
        "--best",
        "--local",
        "--workers",
        "--ray",
        "--label",
    ),
    *(
        "--truncation",
        "--export",
        "--grid",
        "--resolution",
        "--overwrite",
        "--from-run",
        "--print-config",
        "--dry-run",
        "--once",
        "--address",
    ),
]
# Words of each command that end before anything is trained, drawn or sent.
COMMANDS = {
    "train": [["digits", "--print-config"], ["ring2d", "--print-config"], ["--resume", "x"], ["--from-run", "x"]],
    "sweep": [["digits", "loss_x_ratio", "--dry-run"], ["ring2d", "smoke", "--dry-run"], ["--resume", "x"]],
    "evaluate": [["x"], ["x", "--print-config"], ["nothing.parquet"]],
    "sample": [
        ["x", "--num", "4", "--out", "o"],
        ["models:/x/1", "--grid", "g.png"],
        ["x", "--export", "e"],
        ["runs:/a/b", "--grid", "g.png"],
    ],
    "report": [["x"], ["x", "--out", "r"]],
    "prepare": [["nothing", "set", "--resolution", "8"], ["nothing.parquet", "set", "--resolution", "12"]],
    "theory": [["nothing"], ["nothing", "--out", "t"]],
    "submit": [["--zzz", "train", "digits"], ["nothing"]],
}


def whole_configs():
    """Every packaged config, as its file has it and with all defaults."""
    found = []
    for name in packaged():
        tree = load(CONFIGS / f"{name}.yaml")
        given = {"data.path": "nothing.parquet"} if tree["data"]["name"] not in ("digits", "ring2d") else {}
        given |= {"evaluation.extractor.path": "nothing.parquet"} if name == "stacked_mnist" else {}
        found += [merge(tree, given), validate(merge(tree, given), JobConfig).model_dump(mode="json")]
    return found


def _places(tree, above=()):
    for key, value in tree.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from _places(value, (*above, key))


@st.composite
def trees(draw, configs):
    """A config with one to three keys dropped, renamed, given another value, moved into each other, or added."""
    tree = copy.deepcopy(draw(st.sampled_from(configs)))
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        places = list(_places(tree))
        if not places:
            break
        *sections, key = draw(st.sampled_from(places))
        inside = tree
        for section in sections:
            inside = inside[section]
        deed = draw(st.sampled_from(["drop", "rename", "set", "nest", "add"]))
        if deed == "drop":
            del inside[key]
        elif deed == "rename":
            inside[draw(st.sampled_from([f"{key}x", "name", 1, None, "é", str(key).upper()]))] = inside.pop(key)
        elif deed == "set":
            inside[key] = draw(st.sampled_from(GARBAGE))
        elif deed == "nest":
            inside[key] = {key: inside[key]}
        else:
            inside[draw(st.sampled_from(["name", "extra", "generator", "path"]))] = draw(st.sampled_from(GARBAGE))
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


@st.composite
def texts(draw, configs):
    """The bytes of a config with one to five places changed, cut out, doubled, or filled with what YAML has for strangers."""
    content = bytearray(yaml.safe_dump(draw(st.sampled_from(configs))).encode())
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 5]))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        deed = draw(st.sampled_from(["change", "cut", "insert", "double"]))
        if deed == "change" and content:
            content[place] = draw(st.integers(0, 255))
        elif deed == "cut":
            del content[place : place + draw(st.integers(1, 30))]
        elif deed == "insert":
            content[place:place] = draw(st.sampled_from(INSERTED))
        else:
            content[place:place] = content[place : place + 40]
    return bytes(content)


@st.composite
def command_lines(draw, known):
    """A command line of any of the commands, with one to three words changed, inserted or left out."""
    command = draw(st.sampled_from(sorted(set(COMMANDS) & set(known))))
    words = list(draw(st.sampled_from(COMMANDS[command])))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(words)))
        deed = draw(st.sampled_from(["change", "insert", "drop"]))
        if deed == "insert":
            words.insert(place, draw(st.sampled_from(WORDS)))
        elif words and place < len(words):
            words[place : place + 1] = [draw(st.sampled_from(WORDS))] if deed == "change" else []
    # What would go on to work is kept from it.
    if command == "train" and not {"--resume", "--from-run", "--print-config"} & set(words):
        words.append("--print-config")
    if command == "sweep" and not {"--resume", "--dry-run"} & set(words):
        words.append("--dry-run")
    if command == "theory":
        words.insert(0, "no-such-part")
    return [command, *words]
