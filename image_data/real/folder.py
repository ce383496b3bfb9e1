"""Any folder of image files, or the same in a .zip archive that is read where it lies.

Class folders (`class_folders.py`), a `labels.csv` (`tables.py`), or the layout of StyleGAN datasets
(`listed_labels.py`).  A role that is not there is split off by the images' content (`roles.py`).  Beside the images a
`dataset.json` may state what pixels cannot (`description.py`).  What was taken for what, and which image files of the
source are not used, is said in a line each.
"""

from __future__ import annotations

from pathlib import Path

from image_data.real.class_folders import list_class_folders
from image_data.real.dataset import RealData, assemble
from image_data.real.decoding import RESIZING, decode_files
from image_data.real.description import LIMIT_BYTES, Description, parse_description
from image_data.real.listed_labels import list_labelled
from image_data.real.listing import Listing
from image_data.real.request import LoadRequest, only_fold
from image_data.real.roles import SPLIT_SHARE, split_missing
from image_data.real.tables import TABLE, list_table
from image_data.real.tree import FolderTree, ImageTree, read_small
from image_data.real.unused import unused_images
from image_data.real.zip_tree import open_zip_tree
from image_data.sources import ArraySource
from runtime.errors import UserError
from runtime.progress import note

DESCRIPTION = "dataset.json"


def load_folder(request: LoadRequest) -> RealData:
    """`request.name` is the path of the folder or archive."""
    return load_image_folder(Path(request.name), request.name, request)


def load_image_folder(
    folder: Path,
    name: str,
    request: LoadRequest,
    augmentations: tuple[str, ...] | None = None,
    val_share: float = SPLIT_SHARE,
) -> RealData:
    """The same for datasets that are known by name: these state their augmentations and the share of val."""
    only_fold(request)
    tree = open_tree(folder)
    description = tree_description(tree)
    listing = list_tree(tree, description)
    pixels, hashes, resized = decode_files(listing.pictures, request.resolution_px, request.channels, name)
    sources, start = {}, 0
    for role, (pictures, labels) in listing.parts.items():
        end = start + len(pictures)
        sources[role] = ArraySource(
            pixels[start:end], labels, hashes[start:end], [picture.name for picture in pictures]
        )
        start = end
    split = split_missing(sources, f"{folder}", val_share)
    notes = {
        "source": str(folder),
        "reading": list(listing.remarks),
        "split_off": split.split_off,
        "resizing": RESIZING if resized else "none",
    }
    allowed = augmentations or description.allowed(request.augmentations)
    return assemble(
        name, listing.space, split.roles, allowed, request.real_per_class, request.seed, notes, split.remarks
    )


def open_tree(path: Path) -> ImageTree:
    """The files of a folder or of a .zip archive."""
    return FolderTree(path) if path.is_dir() else open_zip_tree(path)


def tree_description(tree: ImageTree) -> Description:
    """The tree's dataset.json; empty where it has none."""
    where = tree.place(DESCRIPTION)
    if DESCRIPTION not in tree.names:
        return Description(where)
    return parse_description(read_small(tree, DESCRIPTION, LIMIT_BYTES), where, labels_allowed=True)


def list_tree(tree: ImageTree, description: Description, whole: bool = False) -> Listing:
    """The files and labels of each role that is there; says what was taken and which image files are not used.

    `whole`: no role is kept apart, so that test images say with the others which labels there are.

    UserError naming what is amiss.
    """
    odd = next((name for name in (DESCRIPTION, TABLE) if name in tree.broken), None)
    if odd is not None:
        raise UserError(f"{tree.place(odd)} is no regular file; mend or remove it.")
    if description.has_labels and TABLE in tree.names:
        raise UserError(f"{tree.place(TABLE)} and the labels in {description.path} both list labels; keep one of them.")
    if description.has_labels:
        listing = list_labelled(tree, description, whole)
    elif TABLE in tree.names:
        listing = list_table(tree, description, whole)
    else:
        listing = list_class_folders(tree, description)
    used = {picture.name for picture in listing.pictures}
    for line in (*listing.remarks, *unused_images(tree, used, listing.unused)):
        note(line)
    return listing
