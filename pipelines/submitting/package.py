"""What travels with a job: the code and configs of a folder, and raygan's own code where the folder does not hold it.

Environments, secrets and data stay, whatever their .gitignore says; so do links that lead out of the folder.
"""

import io
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec

import pipelines

CODE = ("gan_core", "pipelines", "tune_spaces")
HELD = "a secret"
WORDS = ("secret", "secrets", "token", "tokens")
STAYS = {  # in lower case; what is of two kinds is of the first
    "version control": (".git", ".hg", ".svn", ".jj"),
    "an environment or a cache": (
        *(".venv/", "venv/", "env/", "node_modules/", "__pycache__/", "*.pyc", "*.egg-info/", ".eggs/", ".tox/", ".nox/", ".cache/"),
        *(".mypy_cache/", ".ruff_cache/", ".pytest_cache/", ".hypothesis/", ".import_linter_cache/", ".ipynb_checkpoints/", ".terraform/"),
    ),
    HELD: (
        *(".env", ".env.*", "*.env", ".envrc", "env.*", "!env.py", "*.tfvars", "*.tfvars.json", "*.tfstate", "*.tfstate.*", "*.ovpn"),
        *("*.pem", "*.key", "*.ppk", "*.p8", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.gpg", "*.asc", "*.jwt"),
        *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "credentials*", "*credentials", "*-credentials.*", "*_credentials.*"),
        *("service-account*", "service_account*", "*adminsdk*.json", "application_default_*", "kaggle.json", "rclone.conf"),
        *(f"{before}{word}{after}" for before in ("", ".", "*-", "*_", "*.") for word in WORDS for after in ("", ".*")),
        *("*password*", "*passwd*", "*api_key*", "*api-key*", "*apikey*", "*accesskey*", "rootkey*", "*[-_.]key.*"),
        *("key.json", "keys.json", ".vault-token", ".vault_pass*", "vault_pass*", ".s3cfg", ".boto", ".my.cnf", ".mylogin.cnf"),
        *(".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd", ".databrickscfg", ".dockercfg"),
        *("kubeconfig*", "*.kubeconfig", ".aws/", ".ssh/", ".gnupg/", ".kube/", ".docker/", ".azure/", ".oci/", ".kaggle/"),
        *("gcloud/", ".ray/", ".*_history"),
    ),
    "data": (
        *("*.parquet", "*.arrow", "*.feather", "*.csv", "*.tsv", "*.jsonl", "*.tfrecord", "*.tfrecords", "*.pkl", "*.pickle", "*.joblib"),
        *("*.npy", "*.npz", "*.mat", "*.h5", "*.hdf5", "*.lmdb", "*.mdb", "*.bin", "*.db", "*.db-*", "*.sqlite", "*.sqlite3"),
        *("*.zip", "*.tar", "*.tar.*", "*.tgz", "*.gz", "*.bz2", "*.xz", "*.zst", "*.7z", "*.rar"),
        *("*.png", "*.jpg", "*.jpeg", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff", "*.mp4", "*.avi", "*.mov", "*.mkv", "*.webm"),
        *("*.safetensors", "*.pt", "*.pth", "*.ckpt", "*.onnx", "mlruns/", "mlartifacts/", "/runs/", "/report-*/", "/theory/"),
    ),
}
_STAYS = {reason: GitIgnoreSpec.from_lines(patterns) for reason, patterns in STAYS.items()}
NOT_WHOLE = (Path("/"), Path.home())
EPOCH = (1980, 1, 1, 0, 0, 0)  # in every package: the same files are the same bytes, which are uploaded once
OFFENDERS = 10


class Item(NamedTuple):
    """A file that travels: its name in the package, where it lies, and its size in bytes."""

    name: str
    path: Path
    size: int


class Content(NamedTuple):
    """What travels, in the order of the names, and what stays: its name, and why."""

    items: list[Item]
    stays: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes in all, before compression."""
        return sum(item.size for item in self.items)


def collect(root: Path, also: Mapping[str, Path] | None = None) -> Content:
    """The content of a package of the folder `root`, with raygan's code at its top, and with the files `also` by their names there.

    Raises:
        ValueError: the folder cannot be packed, or holds a package that would run in place of this code.
    """
    root = root.resolve()
    if not root.is_dir():
        raise ValueError(f"--working-dir: {root} is no folder")
    if root in NOT_WHOLE:
        raise ValueError(f"--working-dir: {root} is too much to send to a cluster; submit from a project's folder")
    here = Path(pipelines.__file__).resolve().parents[1]
    stays: dict[str, str] = {}
    found = list(_walk(root, root, _Ignored.above(root), stays))
    if root != here:
        if twins := [name for name in CODE if (root / name).exists() or (root / f"{name}.py").exists()]:
            raise ValueError(
                f"--working-dir: {root} holds a {twins[0]} of its own, which would run there in place of {here / twins[0]}; submit with "
                f"the `raygan` of that folder, or from another one"
            )
        for name in CODE:
            found += _walk(here, here / name, _Ignored({}, {}), {})
    found += [Item(name, path, path.stat().st_size) for name, path in (also or {}).items()]
    return Content(sorted({item.name: item for item in found}.values()), stays)


def require_size(content: Content, megabytes: float) -> None:
    """Check that a package is not larger than was meant.

    Raises:
        ValueError: it is; the message lists what is largest.
    """
    if content.size <= megabytes * 1e6:
        return
    largest = sorted(content.items, key=lambda item: -item.size)[:OFFENDERS]
    lines = "\n".join(f"  {item.size / 1e6:10.2f} MB  {item.name}" for item in largest)
    raise ValueError(
        f"--size-limit: {total(content)} would travel, and the limit is {megabytes:g} MB; the "
        f"largest:\n{lines}\nname what is not needed in .rayignore, which reads like .gitignore, or raise the limit"
    )


def pack(content: Content) -> bytes:
    """The package as a zip archive; the same content gives the same bytes.

    Raises:
        ValueError: a file cannot be read.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for item in content.items:
            try:
                data, mode = item.path.read_bytes(), item.path.stat().st_mode
            except OSError as error:
                raise ValueError(f"{item.path} cannot be read ({error.strerror}); name it in .rayignore, or make it readable") from None
            info = zipfile.ZipInfo(item.name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (stat.S_IFREG | (0o755 if mode & 0o100 else 0o644)) << 16
            archive.writestr(info, data)
    return packed.getvalue()


def listing(content: Content) -> str:
    """For `--dry-run`: what stays and why, then every file that travels, with its size."""
    lines = [f"       stays  {name}  ({reason})" for name, reason in sorted(content.stays.items())]
    lines += [f"{item.size:>12,}  {item.name}" for item in content.items]
    return "\n".join(lines)


def total(content: Content) -> str:
    """How much travels."""
    return f"{len(content.items)} files, {content.size / 1e6:.1f} MB"


def held_back(content: Content) -> str:
    """What stays as a secret, in a line: by its name alone, so it may be code that the job needs. Empty where nothing does.

    What .gitignore or .rayignore names too is no news.
    """
    names = sorted(name for name, reason in content.stays.items() if reason == HELD)
    more = f" and {len(names) - OFFENDERS} more" if len(names) > OFFENDERS else ""
    return f"not sent, for their names are those of secrets: {', '.join(names[:OFFENDERS])}{more}" if names else ""


class _Ignored(NamedTuple):
    """The .gitignore and .rayignore files on the way to a folder, by the folder that they lie in, outermost first."""

    git: dict[Path, GitIgnoreSpec]
    ray: dict[Path, GitIgnoreSpec]

    @classmethod
    def above(cls, root: Path) -> "_Ignored":
        """Those of the checkout that `root` is a part of."""
        top = next((folder for folder in (root, *root.parents) if (folder / ".git").exists()), root)
        ignored = cls({}, {})
        for folder in [folder for folder in reversed(root.parents) if folder.is_relative_to(top)]:
            ignored = ignored.within(folder)
        return ignored

    def within(self, folder: Path) -> "_Ignored":
        """With those of `folder` itself."""
        return _Ignored(_joined(self.git, folder, ".gitignore"), _joined(self.ray, folder, ".rayignore"))

    def reason(self, path: Path, *, folder: bool) -> str:
        """Which kind of file says that `path` stays; empty where none does. The innermost that speaks of it decides."""
        for name, specs in ((".gitignore", self.git), (".rayignore", self.ray)):
            for base, spec in reversed(specs.items()):
                said = spec.check_file(path.relative_to(base).as_posix() + ("/" if folder else "")).include
                if said is not None:
                    if said:
                        return name
                    break
        return ""


def _joined(specs: dict[Path, GitIgnoreSpec], folder: Path, name: str) -> dict[Path, GitIgnoreSpec]:
    file = folder / name
    return {**specs, folder: GitIgnoreSpec.from_lines(file.read_text(errors="replace").splitlines())} if file.is_file() else specs


def _walk(root: Path, folder: Path, ignored: _Ignored, stays: dict[str, str]) -> Iterator[Item]:
    """The files below `folder` that travel; `stays` is told of the others."""
    ignored = ignored.within(folder)
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        if reason := _reason(root, path, name, ignored):
            stays[name] = reason
        elif path.is_dir():
            yield from _walk(root, path, ignored, stays)
        else:
            yield Item(name, path, path.stat().st_size)


def _reason(root: Path, path: Path, name: str, ignored: _Ignored) -> str:
    """Why something stays; empty if it travels."""
    if not name.isprintable() or "\\" in name:
        return "a name that does not travel"
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not target.is_relative_to(root):
            return "a link that leads out of the folder"
        if not target.is_file():
            return "a link to a folder" if target.is_dir() else "a link to nothing"
        inner = target.relative_to(root)
        # What it leads to may stay, or be in a folder that stays; then so does the link.
        for part in (*reversed(inner.parents[:-1]), inner):
            if reason := _kind(part.as_posix(), root / part) or ignored.reason(root / part, folder=part != inner):
                return reason
    elif not (path.is_dir() or path.is_file()):
        return "no plain file"
    kind = _kind(name, path)
    said = ignored.reason(path, folder=path.is_dir()) if kind in ("", HELD) else ""
    return said or kind


def _kind(name: str, path: Path) -> str:
    """Which of STAYS it is; empty for none."""
    if path.is_dir() and ((path / "pyvenv.cfg").is_file() or (path / "conda-meta").is_dir()):
        return "an environment or a cache"
    shown = name.lower() + ("/" if path.is_dir() else "")
    return next((reason for reason, spec in _STAYS.items() if spec.match_file(shown)), "")
