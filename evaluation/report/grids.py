"""Image grids, one row for each label, and as PNG: equal bytes for equal images, hard pixel edges."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.report.data import GridRole, ImageGrid
from image_data.fake import FakeDataset
from image_data.fake.warnings import label_name
from image_data.sources import ImageSource
from interfaces import LabelSpace, Teacher
from layers.pixels import quantise
from runtime.seeds import label_bits

PER_LABEL = 8  # images a row
_ROWS = 10
_INK, _PAPER = (28, 31, 35), (255, 255, 255)
_MARGIN_PX = 12


def picture_strip(grids: Sequence[ImageGrid], scale: int = 3) -> bytes:
    """Several grids side by side with their titles, row labels at the left: one picture for a README."""
    if not grids:
        raise ValueError("a strip needs at least one grid")
    font, heading_px = _font(max(11, 4 * scale + 2)), max(12, 5 * scale)
    heading = _font(heading_px)
    parts = [arrange(grid) for grid in grids]
    tiles = [Image.fromarray(_scaled(tile, scale), "RGBA") for tile, _ in parts]
    head = heading_px + 2 * _MARGIN_PX
    names = parts[0][1]
    left = 2 * _MARGIN_PX + max(_text_width(font, name) for name in names)
    widths = [max(tile.width, _text_width(heading, grid.title)) for tile, grid in zip(tiles, grids, strict=True)]
    width = left + sum(widths) + 2 * _MARGIN_PX * (len(tiles) - 1) + _MARGIN_PX
    page = Image.new("RGB", (width, head + max(tile.height for tile in tiles) + _MARGIN_PX), _PAPER)
    x = left
    for tile, grid, taken in zip(tiles, grids, widths, strict=True):
        page.paste(tile, (x, head), tile)
        ImageDraw.Draw(page).text((x, _MARGIN_PX), grid.title, fill=_INK, font=heading)
        x += taken + 2 * _MARGIN_PX
    _draw_row_labels(page, names, left, head, (grids[0].images.shape[2] + 1) * scale, font)
    return _png(page)


def arrange(grid: ImageGrid) -> tuple[np.ndarray, list[str]]:
    """The grid at native size as RGBA (empty places and gaps are transparent) and its row labels from top to bottom."""
    images = _checked(grid.images)
    if len(grid.labels) != len(images):
        raise ValueError(f"{grid.title}: {len(images)} images and {len(grid.labels)} labels")
    names = list(dict.fromkeys(grid.labels))
    labels = np.array([names.index(label) for label in grid.labels], dtype=int)
    rows = []
    for index in range(len(names)):
        rows.append(_tile(images[labels == index][: grid.columns], grid.columns, gap=1))
    gap = np.zeros((1, rows[0].shape[1], 4), np.uint8) if rows else np.zeros((1, 1, 4), np.uint8)
    pieces = [piece for row in rows for piece in (row, gap)][:-1] if rows else [gap]
    return np.concatenate(pieces), names


def native_png(grid: ImageGrid) -> tuple[bytes, list[str]]:
    """`arrange` as PNG bytes, for a page that scales it up itself."""
    tile, names = arrange(grid)
    return _png(Image.fromarray(tile, "RGBA")), names


def grid_of(
    source: ImageSource,
    label_space: LabelSpace,
    title: str,
    role: GridRole = "other",
    *,
    columns: int = PER_LABEL,
    order: np.ndarray | None = None,
) -> ImageGrid:
    """Images of a source as `picture_rows` chooses them."""
    rows, names = picture_rows(np.asarray(source.labels), label_space, columns, order)
    return ImageGrid(title, source.images(rows), names, role, columns=columns)


def picture_rows(
    labels: np.ndarray, label_space: LabelSpace, per_label: int = PER_LABEL, order: np.ndarray | None = None
) -> tuple[np.ndarray, list[str]]:
    """(numbers, names of their rows) of the first `per_label` images, in `order`, of each of up to ten labels.

    Of more labels ten are shown, evenly spaced.  Images of continuous labels stand in the row of the nearest of these,
    the nearest first; vector labels go by their first coordinate.
    """
    order = np.arange(len(labels)) if order is None else order
    labels = labels.reshape(len(labels), -1)[order, 0] if len(labels) else labels
    values = np.unique(labels)
    values = values[np.linspace(0, len(values) - 1, min(_ROWS, len(values))).round().astype(int)]
    chosen, names = [np.zeros(0, dtype=np.int64)], []
    for value, name in zip(values, _row_names(values, label_space), strict=True):
        members = np.flatnonzero(labels == value)
        if label_space.kind != "classes":
            near = np.flatnonzero(np.abs(labels[:, None] - values).argmin(axis=1) == np.searchsorted(values, value))
            members = near[np.argsort(np.abs(labels[near] - value), kind="stable")]
        chosen.append(order[members[:per_label]])
        names += [name] * len(chosen[-1])
    return np.concatenate(chosen), names


def _row_names(values: np.ndarray, label_space: LabelSpace) -> list[str]:
    """Classes by name; other labels with as few decimals as tell them apart."""
    decimals, space = 0, label_space.to_json()
    while label_space.kind != "classes" and decimals < 6 and len(np.unique(values.round(decimals))) < len(values):
        decimals += 1
    return [label_name(space, float(value) + 0.0) for value in values.round(decimals)]  # + 0.0: no "-0"


def fake_grids(fakes: FakeDataset, teacher: Teacher | None, rho: float) -> list[ImageGrid]:
    """Accepted fakes, rejected candidates (with their `teacher`), and the accepted ones that rho leaves out."""
    space = fakes.label_space
    grids = [grid_of(fakes, space, "Teacher, accepted", "accepted")]
    rejected = None if teacher is None else _rejected(fakes, teacher)
    if rejected is not None:
        grids.append(rejected)
    if fakes.score_sets() and rho < 1:
        worst = np.argsort(-fakes.scores().error, kind="stable")
        grids.append(grid_of(fakes, space, "Filtered out", "filtered out", order=worst))
    return grids


def _rejected(fakes: FakeDataset, teacher: Teacher) -> ImageGrid | None:
    """The rejected candidates of lowest ratio of each label, drawn again by the ledger's candidate numbers."""
    units = [(unit.label[~unit.accepted], unit.k[~unit.accepted], unit.r[~unit.accepted]) for unit in fakes.ledger()]
    labels, numbers, ratios = (np.concatenate(column) for column in zip(*units, strict=True))
    if not len(numbers):
        return None
    rows, names = picture_rows(labels, fakes.label_space, order=np.argsort(ratios, kind="stable"))
    seed = int(fakes.manifest.content["settings"]["seed"])
    keys = np.stack([label_bits(labels[rows]), numbers[rows]], axis=1)
    images = teacher.generate(teacher.latents(keys, seed), labels[rows], keys, seed)
    return ImageGrid("Teacher, rejected", quantise(images).cpu().numpy(), names, "rejected")


def _checked(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be uint8 N x 1 or 3 x H x W, not {images.dtype} {images.shape}")
    return images


def _tile(images: np.ndarray, columns: int, gap: int) -> np.ndarray:
    """RGBA, row by row, `gap` transparent pixels between images."""
    count, _, height, width = images.shape
    rows = max(1, -(-count // columns))
    out = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    pixels = np.broadcast_to(images, (count, 3, height, width)).transpose(0, 2, 3, 1)
    for index in range(count):
        y, x = index // columns * (height + gap), index % columns * (width + gap)
        out[y : y + height, x : x + width, :3] = pixels[index]
        out[y : y + height, x : x + width, 3] = 255
    return out


def _scaled(tile: np.ndarray, scale: int) -> np.ndarray:
    return np.ascontiguousarray(tile.repeat(scale, axis=0).repeat(scale, axis=1))


def _draw_row_labels(
    page: Image.Image, labels: Sequence[str], left: int, top: int, pitch: int, font: ImageFont.FreeTypeFont
) -> None:
    draw = ImageDraw.Draw(page)
    for row, text in enumerate(labels):
        middle = top + row * pitch + pitch // 2
        draw.text((left - _MARGIN_PX, middle), text, fill=_INK, font=font, anchor="rm")


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: the same letters on every machine."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def _text_width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return int(np.ceil(font.getlength(text)))


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
