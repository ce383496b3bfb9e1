"""Writing an export: whole or not at all, by one process, never over something that is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from image_data.fake.dataset import FakeDataset, open_fakes
from image_data.fake.exports.registry import ExportFormat, export_format
from image_data.fake.exports.rows import ExportRows
from image_data.fake.selection import Selection
from runtime.atomic import (
    commit_new_file,
    commit_new_folder,
    disk_errors,
    make_folder,
    remove_leftovers,
    temporary_name,
)
from runtime.errors import UserError
from runtime.locks import exclusive_lock
from runtime.os_errors import named
from runtime.seeds import numpy_generator

_NAMES_SHOWN = 100


def export_fakes(
    path: Path | FakeDataset,
    out: Path,
    to: str | ExportFormat,
    selection: Selection | None = None,
    *,
    licence: str = "unknown",
    seed: int = 0,
) -> Path:
    """Write the rows of a dataset of fakes, or of a selection, to the new file or folder `out` in another format.

    `to`: an entry of EXPORT_FORMATS, by name or as an instance.  Memory does not grow with the number of rows.  The
    next export removes what a killed one left, and begins again.  A folder gets a README.md with source, `licence` and
    selection.  `seed` orders the rows of formats that are read as a stream.  UserError: no rows, `out` exists, another
    process is exporting to it, a package is missing.
    """
    fakes = path if isinstance(path, FakeDataset) else open_fakes(path)
    form = export_format(to) if isinstance(to, str) else to
    out = Path(out)
    refusal = f"{out} exists; remove it or export to another {'file' if form.suffix else 'folder'}."
    if out.exists():
        raise UserError(refusal)
    rows = export_rows(fakes, form, selection, seed)
    make_folder(out.parent)
    lock = out.with_name(f".{out.name}.lock")
    try:
        with disk_errors(out), exclusive_lock(lock, f"another process is exporting to {out}; wait for it."):
            try:
                remove_leftovers(out.parent, out.name)  # by a process that was killed
                _export(out, form, rows, _readme(out.name, form, rows, selection, licence))
            finally:
                lock.unlink(missing_ok=True)
    except FileExistsError as error:
        raise UserError(refusal) from error
    return out


def export_rows(
    fakes: FakeDataset, form: ExportFormat, selection: Selection | None = None, seed: int = 0
) -> ExportRows:
    """The rows as this format takes them; UserError where there are none."""
    view = fakes.view(selection)
    if not len(view):
        raise UserError(f"no row of {fakes.path} is left to export; select more.")
    return ExportRows(view, numpy_generator(seed, "export").permutation(len(view)) if form.shuffled else None)


def _export(out: Path, form: ExportFormat, rows: ExportRows, readme: str) -> None:
    temporary = temporary_name(out)
    try:
        with named(out):
            if form.suffix:
                form.write(temporary, rows)
            else:
                temporary.mkdir()
                form.write(temporary, rows)
                (temporary / "README.md").write_text(readme)
        (commit_new_file if form.suffix else commit_new_folder)(temporary, out)
    finally:
        temporary.unlink(missing_ok=True) if form.suffix else shutil.rmtree(temporary, ignore_errors=True)


def _readme(name: str, form: ExportFormat, rows: ExportRows, selection: Selection | None, licence: str) -> str:
    """What the files do not say: where the images come from, under which licence, and how to read them."""
    fakes = rows.view.fakes
    parents = "".join(f", {kind} `{digest}`" for kind, digest in fakes.manifest.parents.items())
    recipe = {} if selection is None else selection.recipe
    facts = {
        "images": f"{len(rows)} of {' x '.join(map(str, rows.image_shape))}, PNG without loss",
        "labels": _labels(rows),
        "source": f"fakes `{fakes.digest}`{parents}",
        "licence": licence,
        "selection": f"`{json.dumps(recipe, sort_keys=True, default=str)}`" if recipe else "all rows",
        "order": "drawn at random" if form.shuffled else "as in the source",
        "of each image": ", ".join(f"`{column}`" for column in rows.columns),
    }
    head = ["---", f"pretty_name: {json.dumps(name)}", "---"]  # the Hugging Face hub's; `datasets` looks for it
    lines = [*head, "# Images made by a generative model", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {str(value).replace('|', '/')} |" for key, value in facts.items()]
    return "\n".join([*lines, "", "```python", form.how_to_read(name, rows), "```", ""])


def _labels(rows: ExportRows) -> str:
    space: dict[str, Any] = rows.label_space.to_json()
    if rows.class_names is None:
        return f"values from {space['low']:g} to {space['high']:g} {space['unit']}".rstrip()
    more = len(rows.class_names) - _NAMES_SHOWN
    shown = ", ".join(rows.class_names[:_NAMES_SHOWN])
    return f"{len(rows.class_names)} classes, in order: {shown}{f' and {more} more' if more > 0 else ''}"
