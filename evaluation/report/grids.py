"""Image grids as PNG: equal bytes for equal images, hard pixel edges, one row for each label."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from evaluation.report.data import GridRole, ImageGrid
from image_data.sources import ImageSource
from interfaces import LabelSpace
from runtime.seeds import numpy_generator

_INK, _PAPER = (28, 31, 35), (255, 255, 255)
_MARGIN_PX = 12


def image_grid(images: np.ndarray, columns: int = 10, scale: int = 3, labels: Sequence[str] | None = None) -> bytes:
    """uint8 N x C x H x W -> a PNG on white, row by row; `labels` stands at the left, one text a row.

    Each pixel becomes scale x scale pixels.  Greyscale and RGB images.
    """
    tile = _scaled(_tile(_checked(images), columns, gap=1), scale)
    picture = Image.fromarray(tile, "RGBA")
    font = _font(max(11, 4 * scale + 2))
    left = 2 * _MARGIN_PX + max(_text_width(font, text) for text in labels) if labels else _MARGIN_PX
    page = Image.new("RGB", (left + picture.width + _MARGIN_PX, picture.height + 2 * _MARGIN_PX), _PAPER)
    page.paste(picture, (left, _MARGIN_PX), picture)
    _draw_row_labels(page, labels or (), left, _MARGIN_PX, (images.shape[2] + 1) * scale, font)
    return _png(page)


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
        mine = images[labels == index][: grid.columns]
        rows.append(_tile(mine, grid.columns, gap=1))
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
    columns: int = 8,
    max_rows: int = 10,
    seed: int = 0,
    rows: np.ndarray | None = None,
    caption: str = "",
) -> ImageGrid:
    """A seeded choice of a source's images (of `rows`): `columns` for each class, or each of up to `max_rows` ranges.

    With more classes than `max_rows`, evenly spaced classes are shown.  Vector labels go by their first coordinate.
    """
    pool = np.arange(len(source)) if rows is None else np.asarray(rows)
    labels = np.asarray(source.labels)[pool]
    if label_space.kind == "classes":
        names = [str(name) for name in label_space.to_json()["names"]]
        shown = np.unique(np.linspace(0, len(names) - 1, min(max_rows, len(names))).round().astype(int))
        groups = [(names[index], pool[labels == index]) for index in shown]
    else:
        space = label_space.to_json()
        first = labels.reshape(len(labels), -1)[:, 0] if len(labels) else labels
        edges = np.linspace(space["low"], space["high"], min(max_rows, 10) + 1)
        places = np.clip(np.searchsorted(edges, first, side="right") - 1, 0, len(edges) - 2)
        middles = [f"{(a + b) / 2:g}" for a, b in itertools.pairwise(edges)]
        groups = [(name, pool[places == index]) for index, name in enumerate(middles)]
    chosen: list[int] = []
    texts: list[str] = []
    for name, members in groups:
        order = numpy_generator(seed, "report-grid", name).permutation(len(members))[:columns]
        chosen += members[np.sort(order)].tolist()
        texts += [name] * len(order)
    images = source.images(np.array(chosen, dtype=np.int64)) if chosen else np.zeros((0, 1, 1, 1), np.uint8)
    return ImageGrid(title, images, texts, role, caption, columns)


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
