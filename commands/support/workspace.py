"""The graph of artefacts: where each lies, what its inputs were, and how a missing one of the defaults is built.

An artefact is a folder `<workspace>/<kind>/<digest8>` (or --out), where the digest names the command's options and
the digests of its inputs.  `<kind>/latest` points to the newest finished one.  `command.json` is written first and
decides whether the same command continues the folder or another one is refused.
"""

from __future__ import annotations

import importlib
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from commands.support.artefact_kinds import FLAGS, WANTED, check_kind, given_folders
from commands.support.dry_run import work_begins
from commands.support.options import PLUMBING, SharedOptions, plain
from commands.support.record import COMMAND_FILE, check_record, read_record, write_record
from commands.support.resolving import resolve
from commands.support.table import COMMANDS
from image_data.seen_names import SEEN_FILE
from runtime.atomic import guarded, remove_leftovers, write_bytes
from runtime.digests import digest_of, file_sha256
from runtime.errors import UserError
from runtime.locks import exclusive_lock
from runtime.ranks import ALONE, Ranks, launched_ranks
from runtime.safe_files import read_sealed_json
from teacher_sampler.remote.address import is_url

SEAL = {  # the file whose presence says that an artefact of this kind is finished
    "teacher": "card.json",
    "student": "card.json",
    "filter": "card.json",
    "predictor": "card.json",
    "classifier": "result.json",
    "judge": "card.json",
    "fakes": "manifest.json",
    "rho": "choice.yaml",
    "evaluation": "result.json",
    "comparison": "result.json",
    "outputs": "card.json",
}
MAKER = {  # the command that makes a missing artefact of the embedded default
    "teacher": "train-teacher",
    "filter": "fit-filter",
    "predictor": "train-classifier",
    "fakes": "sample",
    "student": "train-student",
    "rho": "search-rho",
}
NEEDS = {"filter": ("teacher",), "fakes": ("teacher", "filter", "predictor"), "student": ("fakes",), "rho": ("fakes",)}
OPTIONAL = {"filter", "predictor"}  # `none` is an answer too
TEACHER_FLAGS = ("teacher", "label_map", "image_size", "image_channels")
DATA_FLAGS = ("data", "fold", "resolution", "real_per_class", "data_seed")
_LOCK = ".command.lock"
_BEFORE_WORK = (COMMAND_FILE, SEEN_FILE, _LOCK)  # written before the work begins
_OWN_LOCK = {"fakes"}  # written by score and repair too: whoever holds that lock cleans
EMBEDDED = {"digits", "rotated-digits"}
PATHS = {"checkpoint", "label_embedding", "label_network", "label_map"}  # their content is in the parents' digests


@dataclass
class Artefact:
    """A folder being written: `folder`, `finished` (nothing is left to do), and the digests of its inputs."""

    kind: str
    folder: Path
    finished: bool
    parents: dict[str, str] = field(default_factory=dict)


def call(command: str, **given: Any) -> dict[str, Any]:
    """Run another command in this process with these options; returns its result."""
    module = importlib.import_module(f"commands.{COMMANDS[command][0]}")
    typed = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    return module.run(resolve(module.Options, None, typed))


@contextmanager
def artefact(
    command: str,
    kind: str,
    options: SharedOptions,
    parents: dict[str, str],
    shared: bool = False,
    changeable: Set[str] = frozenset(),
    complete: Callable[[Path], bool] | None = None,
    ranks: Ranks = ALONE,
    opened: Mapping[str, str] | None = None,
    needs: Callable[[], dict[str, Any]] | None = None,
) -> Iterator[Artefact]:
    """Open (or continue) the folder of this command's result; point `latest` to it when the block ends well.

    `shared` folders have their own claims and let several processes in.  A folder may have been begun with other
    values of the `changeable` options, and says so until the work is done: a refusal or a stop changes no record.
    `complete` says whether a sealed folder is all that these options ask for.  `opened` stands in the record: what is
    looked at in the end, a test set by its digest; another one makes no other artefact.  `needs` is a dry run's.
    Of several ranks the main one locks, records and cleans; the others come in when it has, and leave with it.
    """
    identity = {"command": command, "options": content_options(options), "parents": dict(sorted(parents.items()))}
    folder = options.out or _place(options, kind, identity)
    identity |= {"opened": dict(opened)} if opened else {}
    same = partial(check_folder, folder, identity, type(options), changeable)
    if options.dry_run:
        done = same() and _is_finished(folder, kind, complete)
        work_begins(options, "all", folder, done, needs)
    if not ranks.main:
        finished = bool(ranks.broadcast(0))
        if not same():
            raise UserError(f"{folder} is not seen by rank {ranks.number}; give an --out that every node sees.")
        yield Artefact(kind, folder, finished, parents)
        ranks.wait()
        return
    if same() and _is_finished(folder, kind, complete):
        with _finished_artefact(kind, folder, parents, options, ranks) as existing:
            yield existing
        return
    created = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    busy = f"{folder} is being written by another process; wait for it or give another --out."
    with nullcontext() if shared else exclusive_lock(folder / _LOCK, busy), guarded(folder):
        recorded, finished = same(), _is_finished(folder, kind, complete)
        if not (finished or shared or kind in _OWN_LOCK):
            remove_leftovers(folder)
        if finished:
            _say(f"{kind} {folder} is finished; nothing to do")
        elif not (folder / COMMAND_FILE).is_file():
            write_record(folder, identity, provenance())
            recorded = True
        ranks.broadcast(finished)
        try:
            yield Artefact(kind, folder, finished, parents)
        except UserError:
            _free(folder, created)
            raise
        if not recorded:
            write_record(folder, identity, provenance())
        _finish(options, folder, kind)
        ranks.wait()


@contextmanager
def _finished_artefact(
    kind: str, folder: Path, parents: dict[str, str], options: SharedOptions, ranks: Ranks
) -> Iterator[Artefact]:
    """Without a lock or any other write: a finished folder may lie where nothing can be written."""
    _say(f"{kind} {folder} is finished; nothing to do")
    ranks.broadcast(True)
    yield Artefact(kind, folder, True, parents)
    _finish(options, folder, kind)
    ranks.wait()


def _is_finished(folder: Path, kind: str, complete: Callable[[Path], bool] | None) -> bool:
    return (folder / SEAL[kind]).is_file() and (complete is None or complete(folder))


def _finish(options: SharedOptions, folder: Path, kind: str) -> None:
    """Point `latest` to a finished folder of the workspace."""
    if options.out is not None or not (folder / SEAL[kind]).is_file():
        return
    link = folder.parent / "latest"
    if not (link.is_symlink() and os.readlink(link) == folder.name):
        _point_latest(folder)


def _free(folder: Path, created: bool) -> None:
    """Free the name of a folder that was refused before anything was written into it."""
    if not folder.is_dir() or any(p for p in folder.iterdir() if p.name not in _BEFORE_WORK and p.name[0] != "."):
        return
    for name in (COMMAND_FILE, SEEN_FILE):
        (folder / name).unlink(missing_ok=True)
    if created:
        (folder / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # another process may have come in
            folder.rmdir()


def content_options(options: SharedOptions) -> dict[str, Any]:
    """The options that decide the content; paths of inputs are replaced by their digests, plumbing left out."""
    skip = PLUMBING | set(WANTED) | PATHS
    return {name: value for name, value in plain(options).items() if name not in skip}


def _as_now(model: type[SharedOptions], recorded: dict[str, Any]) -> dict[str, Any]:
    """A record's options as this version spells them, also those that it did not have; as they are where it cannot."""
    try:
        given = {name: value for name, value in recorded.items() if value is not None}
        return content_options(resolve(model, None, given))
    except UserError:
        return recorded


def _place(options: SharedOptions, kind: str, identity: dict[str, Any]) -> Path:
    """The folder of this work in the workspace: named by its digest, or where an earlier version has begun it."""
    home = options.workspace / kind
    named = home / digest_of(identity)[:8]
    for record in [] if named.exists() else sorted(home.glob(f"*/{COMMAND_FILE}")):
        with suppress(UserError):
            if not record.parent.is_symlink() and check_folder(record.parent, identity, type(options)):
                return record.parent
    return named


def check_folder(
    folder: Path, identity: dict[str, Any], model: type[SharedOptions], changeable: Set[str] = frozenset()
) -> bool:
    """Refuse a folder that holds something else than this command's work; whether it records this very command."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UserError(f"--out {folder} is a file; give the name of a new folder.")
    if (folder / COMMAND_FILE).is_file():
        return check_record(folder, identity, partial(_as_now, model), changeable)
    if any(path for path in folder.iterdir() if not path.name.startswith(".")):
        raise UserError(f"--out {folder} is not empty and was not made by this program; give a new folder.")
    return False


def resolve_input(
    kind: str, given: str | Path | None, options: SharedOptions, *, build: bool = True, **make: Any
) -> Any:
    """The folder of an input: the path given, else the workspace's latest, else (embedded data, `build`) one built now.

    A teacher may also be the address of a service, which is returned as it is.  A dry run makes nothing: it ends at
    the first input that is not there.
    """
    if given is not None:
        return _given_input(f"--{kind}", kind, given)
    latest = options.workspace / kind / "latest"
    if (latest / SEAL[kind]).is_file():
        return latest.resolve()
    data = data_flags(options)
    if not build or data.get("data", "digits") not in EMBEDDED or kind not in MAKER:
        maker, other = MAKER.get(kind, kind), f" or --{kind} none" if kind in OPTIONAL else ""
        raise UserError(
            f"no {kind} in {options.workspace}; run `python cli.py {maker}` first or give --{kind} PATH{other}."
        )
    if launched_ranks() > 1:
        raise UserError(f"no {kind} in {options.workspace}; run `python cli.py {MAKER[kind]}` first, without torchrun.")
    work_begins(options, f"as far as possible without the {kind}, which is not there yet")
    for parent in NEEDS.get(kind, ()):  # built from the same images, and before the child, which has no flags for them
        resolve_input(parent, getattr(options, parent, None), options)
    _say(f"no {kind} in {options.workspace} yet: making one first (python cli.py {MAKER[kind]})")
    seen_as = {name: getattr(options, name, None) for name in TEACHER_FLAGS}
    inherited = {"workspace": options.workspace, "device": options.device, **data, **make}
    inherited |= {name: str(value) for name, value in seen_as.items() if value is not None}
    accepted = importlib.import_module(f"commands.{COMMANDS[MAKER[kind]][0]}").Options.model_fields
    call(MAKER[kind], **{name: value for name, value in inherited.items() if name in accepted})
    return (options.workspace / kind / "latest").resolve()


def _given_input(flag: str, kind: str, given: str | Path) -> str | Path:
    """The folder (or a teacher's address) that a flag names; a UserError where it holds no finished `kind`."""
    if kind == "teacher" and is_url(given):
        return str(given)
    folder, (name, _) = Path(given), WANTED[kind]
    if not folder.exists():
        raise UserError(f"{flag} {folder} does not exist; give the folder of {name}.")
    check_kind(flag, kind, folder)
    if not (folder / SEAL[kind]).is_file():
        raise UserError(f"{flag} {folder} is not finished: {SEAL[kind]} is missing; finish its command first.")
    return folder


def finished_artefacts(workspace: Path, kind: str) -> list[Path]:
    """The finished folders of a kind, the latest first."""
    latest = (workspace / kind / "latest").resolve()
    folders = [path for path in (workspace / kind).glob("*") if not path.is_symlink() and (path / SEAL[kind]).is_file()]
    return sorted(folders, key=lambda path: (path.resolve() != latest, path.name))


def check_inputs(options: SharedOptions) -> None:
    """UserError naming the flag where a folder that the options name is not there, not finished or of another kind."""
    for flag, kind, path in given_folders(options):
        _given_input(flag, kind, path)


def data_flags(options: SharedOptions) -> dict[str, Any]:
    """Which real images: the command's own flags, or for a command without them those that its teacher learnt from."""
    if "data" in type(options).model_fields:
        given = {name: getattr(options, name) for name in DATA_FLAGS}
    else:
        folder = getattr(options, "teacher", None) or options.workspace / "teacher" / "latest"
        recorded = (Path(folder) / COMMAND_FILE).is_file()
        made_with = read_record(Path(folder))["content"]["options"] if recorded else {}
        if Path(folder).exists() or is_url(folder):  # a teacher from elsewhere does not say what it learnt from
            made_with = {"data": "unknown", **made_with}
        given = {name: made_with.get(name) for name in DATA_FLAGS}
    return {name: value for name, value in given.items() if value is not None}


def artefact_digest(kind: str, folder: str | Path) -> str:
    """What a child records of a parent: the digest of its content, free of times and machines."""
    if kind == "fakes":
        from image_data.fake import open_fakes

        return open_fakes(Path(folder)).digest
    if kind == "teacher" and is_url(folder):
        from teacher_sampler.remote.client import RemoteTeacher

        return RemoteTeacher.connect(str(folder)).digest
    folder = Path(folder)
    card = read_sealed_json(folder / "card.json", f"restore it, or make the {kind} again")
    if card.get("architecture") == "http":  # the service says what it serves, by the digest that it has at home
        return str(card.get("source_digest"))
    if kind == "outputs":
        return str(card.get("source_digest"))
    weights = folder / "weights.safetensors"
    content = file_sha256(weights) if weights.is_file() else card.get("source_digest")
    if content is None:
        raise UserError(f"{folder / 'card.json'} names no digest of the {kind}; restore it, or make the {kind} again.")
    kept = {name: card.get(name) for name in ("architecture", "arguments", "latent", "truncation")}
    return digest_of({"weights": content, **kept})


def describe_inputs(options: SharedOptions) -> dict[str, Any]:
    """For --dry-run: which inputs the options name, and whether they are there."""
    inputs: dict[str, Any] = {}
    for name, kind in FLAGS.items():
        if name not in type(options).model_fields:
            continue
        given = getattr(options, name)
        latest = options.workspace / kind / "latest"
        if given is not None or name != kind or kind not in MAKER:
            inputs[name] = None if given is None else str(given)
        elif (latest / SEAL[kind]).is_file():
            inputs[name] = str(latest.resolve())
        else:
            inputs[name] = f"missing; `python cli.py {MAKER[kind]}` makes it"
    if "data" in type(options).model_fields:
        inputs["data"] = getattr(options, "data")  # noqa: B009
    return inputs


def provenance() -> dict[str, Any]:
    """Where and with what an artefact was built; never part of a digest."""
    return {
        "command_line": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {name: version(name) for name in ("torch", "numpy", "h5py")},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _say(message: str) -> None:
    from runtime.progress import say  # rich is heavy, and --help passes here

    say(message)


def _point_latest(folder: Path) -> None:
    """`latest` is a relative link (a text file holds the name where links are impossible)."""
    link = folder.parent / "latest"
    temporary = folder.parent / f".latest.{os.getpid()}.tmp"
    for left in folder.parent.glob(".latest.*.tmp"):  # by a process that was killed between the two steps
        left.unlink(missing_ok=True)
    try:
        temporary.symlink_to(folder.name)
        os.replace(temporary, link)
    except OSError:
        write_bytes(link.with_suffix(".txt"), folder.name.encode())
