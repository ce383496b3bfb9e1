"""Image files and arrays to square uint8 images of one size.

Sizes: files of one square size stay as they are.  Anything else is cut to its central square and resized bicubically
with antialiasing, and only when a resolution was asked for: resizing changes scores, so none is applied silently.
A file is opened by the decoders of the kinds in IMAGE_SUFFIXES only, whatever its name; of several frames the first
is used, and that is said.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps

from image_data.real.tree import Picture
from image_data.seen import image_hashes
from runtime.errors import UserError
from runtime.free_space import check_memory
from runtime.progress import note, progress
from runtime.safe_files import printable

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".webp", ".gif", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga"}
)
RESIZING = "centre crop to a square, bicubic with antialiasing"
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM")
_GREY_MODES = {"1", "L", "LA"}
_DEEP_MODES = {"I", "F"}
_BLOCK = 1024


def decode_files(
    files: Sequence[Picture], resolution_px: int | None, channels: int | None, title: str
) -> tuple[np.ndarray, np.ndarray, bool]:
    """uint8 N x C x H x W, the images' hashes (uint64 N, see `image_data.seen`), and whether any file was resized.

    Without `channels`, grey files give one channel and anything else three.  UserError naming the file: unreadable,
    of more than 8 bits, or (without `resolution_px`) not square or not of the size of the first.
    """
    check_shape_request(resolution_px, channels, title)
    size, grey, resized = survey_files(files, resolution_px)
    channels = channels or (1 if grey else 3)
    check_memory(len(files) * channels * size * size, f"{title}: {len(files)} images of {size} x {size}")
    out = np.empty((len(files), channels, size, size), dtype=np.uint8)
    hashes = np.empty(len(files), dtype=np.uint64)
    with progress(f"reading {title}", len(files)) as bar:
        for row, picture in enumerate(files):
            out[row], hashes[row] = decode_hashed(picture, size, channels)
            bar.advance(1)
    return out, hashes, resized


def reshape_pixels(pixels: np.ndarray, resolution_px: int | None, channels: int | None, where: str) -> np.ndarray:
    """The same choices for images that are arrays already: uint8 N x C x H x W -> uint8 N x C' x S x S."""
    check_pixel_array(pixels.shape, pixels.dtype, where)
    channels = channels or pixels.shape[1]
    check_shape_request(resolution_px, channels, where)
    height, width = pixels.shape[2:]
    if resolution_px is None and height != width:
        raise UserError(f"{where}: images are {width} x {height}, not square; give --resolution N to crop and resize.")
    if channels == 3 and pixels.shape[1] == 1:
        pixels = np.repeat(pixels, 3, axis=1)
    elif channels == 1 and pixels.shape[1] == 3:
        luma = np.array([0.299, 0.587, 0.114], dtype=np.float32)
        blocks = [np.rint(np.tensordot(luma, block, (0, 1))) for block in _blocks(pixels)]
        pixels = np.concatenate(blocks)[:, None].astype(np.uint8)
    if resolution_px is None or (height, width) == (resolution_px, resolution_px):
        return pixels
    left, top, right, bottom = _central_square(width, height)
    square = pixels[:, :, top:bottom, left:right]
    return np.concatenate([_resize(block, resolution_px) for block in _blocks(square)])


def check_shape_request(resolution_px: int | None, channels: int | None, where: str) -> None:
    """UserError for a size or channel count that no image can have."""
    if resolution_px is not None and not 4 <= resolution_px <= 1024:
        raise UserError(f"{where}: resolution_px must lie between 4 and 1024, but is {resolution_px}.")
    if channels not in (None, 1, 3):
        raise UserError(f"{where}: channels must be 1 or 3, but is {channels}.")


def check_pixel_array(shape: Sequence[int], dtype: np.dtype, where: str) -> None:
    """UserError for an array that holds no uint8 images N x 1 x H x W or N x 3 x H x W; before it is read."""
    shown = " x ".join(map(str, shape)) or "a single value"
    if len(shape) == 3:
        raise UserError(
            f"{where}: the images are {shown}, which is N x H x W; give N x 1 x H x W (images[:, None] in NumPy)."
        )
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise UserError(f"{where}: the images are {shown}; give N x 1 x H x W or N x 3 x H x W.")
    if 0 in shape[1:]:
        raise UserError(f"{where}: the images are {shown}, which is empty; give images of at least one pixel.")
    if dtype != np.uint8:
        remedy = "multiply values from 0 to 1 by 255, round" if dtype.kind == "f" else "bring the levels to 0 to 255"
        raise UserError(
            f"{where}: images must be uint8 (0 to 255), but are {dtype}, {shown}; {remedy}, and store them as uint8."
        )


def survey_files(files: Sequence[Picture], resolution_px: int | None) -> tuple[int, bool, bool]:
    """Look at the headers only: (side in pixels, all grey, any needs resizing); UserError as for `decode_files`."""
    first: tuple[int, int] | None = None
    grey, resized = True, False
    several: list[Picture] = []
    for picture in files:
        with _opened(picture) as image:
            shape, mode = image.size, image.mode
            if getattr(image, "n_frames", 1) > 1:
                several.append(picture)
        if mode in _DEEP_MODES or mode.startswith("I;"):
            raise UserError(f"{picture} has more than 8 bits for each value (mode {mode}); convert it to 8 bits.")
        grey = grey and mode in _GREY_MODES
        if resolution_px is not None:
            resized = resized or shape != (resolution_px, resolution_px)
            continue
        first = first or shape
        if shape != first:
            raise UserError(
                f"{picture} is {shape[0]} x {shape[1]}, but {files[0]} is {first[0]} x {first[1]}; "
                "make all images one size, or give --resolution N to crop and resize them."
            )
        if shape[0] != shape[1]:
            raise UserError(
                f"{picture} is {shape[0]} x {shape[1]}, not square; give --resolution N to crop and resize."
            )
    if several:
        note(f"{len(several)} files hold several frames, of which the first is used ({several[0]}, ...)")
    return resolution_px or (first or (0, 0))[0], grey, resized


@contextmanager
def _opened(picture: Picture) -> Iterator[Image.Image]:
    """The image, header read; UserError naming the file for whatever a decoder raises inside the block."""
    with picture.open() as stream:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                formats = ("TGA",) if picture.suffix == ".tga" else _FORMATS  # TGA has no mark to know it by
                with Image.open(stream, formats=formats) as image:
                    yield image
        except UserError:
            raise
        except Exception as error:  # decoders raise a dozen kinds for damaged files, KeyError and struct.error too
            text = str(error).split(" <", 1)[0] or type(error).__name__  # without the name of the stream
            raise UserError(f"{picture} is no readable image ({printable(text)}); mend or remove it.") from error


def decode_hashed(picture: Picture, size: int, channels: int) -> tuple[np.ndarray, int]:
    """uint8 C x S x S, cropped and resized where the file has another size; UserError naming it where unreadable.

    And the image's hash, which is that of the file's own pixels whatever size and channels are asked for.
    """
    with _opened(picture) as opened:
        opened.load()
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        own = image.convert("L" if image.mode in _GREY_MODES else "RGB")
        name = int(image_hashes(_as_array(own)[None])[0])
        wanted = "L" if channels == 1 else "RGB"
        image = own if own.mode == wanted else image.convert(wanted)
        if image.size != (size, size):
            image = image.crop(_central_square(*image.size)).resize((size, size), Image.Resampling.BICUBIC)
        return _as_array(image), name


def _as_array(image: Image.Image) -> np.ndarray:
    """uint8 C x H x W of a grey or a colour image."""
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if image.mode == "L" else array.transpose(2, 0, 1)


def _central_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def _blocks(pixels: np.ndarray) -> list[np.ndarray]:
    return [pixels[start : start + _BLOCK] for start in range(0, len(pixels), _BLOCK)] or [pixels]


def _resize(pixels: np.ndarray, resolution_px: int) -> np.ndarray:
    images = torch.from_numpy(np.array(pixels, dtype=np.float32))
    size = (resolution_px, resolution_px)
    drawn = torch.nn.functional.interpolate(images, size=size, mode="bicubic", align_corners=False, antialias=True)
    return drawn.round_().clamp_(0, 255).to(torch.uint8).numpy()
