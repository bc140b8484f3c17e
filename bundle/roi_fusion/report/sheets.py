# Copyright 2026 The ROI Fusion authors. Licensed under the Apache License, Version 2.0 (see LICENSE).
"""All slices of a case as a few small pictures: one sheet of tiles for each panel, outlines as paths over them."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from PIL import Image, ImageDraw
from skimage.measure import approximate_polygon, find_contours

from .volumes import ResultVolumes, View

__all__ = ["Panel", "Sheets", "Tiling", "make_sheets", "mri_panel", "panels_of", "webp_uri"]

#: Longest side of a tile in pixels: so many for up to `_MANY` slices, fewer beyond.
_TILE_PX, _SMALL_TILE_PX, _MANY = 256, 192, 100

#: Height of a thumbnail in pixels.
_THUMBNAIL_PX = 88

#: Length of the scale bar.
_SCALE_MM = 50.0

#: Grey level of what lies inside the head and of which a map says nothing.
_UNTOLD = 89

#: Dots between two points of an outline within which it may be straightened, in pixels of a tile.
_STRAIGHTENED_PX = 0.25


class Panel(NamedTuple):
    """A volume and the grey levels or colours that it is shown in, from `low` to `high`."""

    title: str
    volume: np.ndarray | None
    colours: str
    low: float
    high: float
    unit: str
    outlined: bool = False


@dataclass(frozen=True)
class Sheets:
    """Pictures of all slices that show the head.

    Attributes:
        width, height: of a tile, in pixels.
        columns, rows: tiles of a sheet, filled row by row from the lowest slice up.
        first: number of the tile with most of the lesion, the middle one without a lesion.
        positions_mm: place of each slice along the axis that they are numbered by.
        axis: the direction that the slices are numbered in, such as S.
        areas_cm2: area of the lesion in each slice.
        panels: for each, its title, picture as a data URI, colour bar as CSS colours, `low`, `high`, unit, whether outlined.
        outlines: SVG paths over a whole sheet by name, ``lesion`` and ``reference``.
        letters: see :meth:`View.letters`.
        scale_mm, scale_percent: length of the scale bar, and its share of a tile's width.
        thumbnail: bytes of a WebP picture.
    """

    width: int
    height: int
    columns: int
    rows: int
    first: int
    positions_mm: list[float]
    axis: str
    areas_cm2: list[float]
    panels: list[dict[str, object]]
    outlines: dict[str, str]
    letters: dict[str, str]
    scale_mm: float
    scale_percent: float
    thumbnail: bytes

    def __len__(self) -> int:
        return len(self.positions_mm)


def _range_over(volume: np.ndarray, head: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    values = volume[head] if head.any() else volume
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, percentiles) if len(values) else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def mri_panel(volumes: ResultVolumes) -> Panel:
    """The MRI from its 1st to its 99.5th percentile over the head."""
    shown = volumes.fused if volumes.mri is None else volumes.mri
    return Panel("MRI", volumes.mri, "gray", *_range_over(shown, volumes.head, (1, 99.5)), "MRI units", outlined=True)


def panels_of(volumes: ResultVolumes) -> list[Panel]:
    """What is shown of a case: images, fused volume and maps, each with its range; those that it lacks without a volume."""
    head = volumes.head
    fused_range = _range_over(volumes.fused, head, (0.5, 99.7))
    return [
        mri_panel(volumes),
        Panel("CT, brain window", volumes.ct, "gray", 0, 80, "HU"),
        Panel("CT, bone window", volumes.ct, "gray", -500, 1300, "HU"),
        Panel("Fused", volumes.fused, "gray", *fused_range, "MRI units", outlined=True),
        Panel("Lesion probability", volumes.lesion_prob, "inferno", 0, 1, ""),
        Panel("Uncertainty", volumes.uncertainty, "magma", 0, 1, "bits"),
        Panel("Provenance: share of the MRI", volumes.provenance, "viridis", 0, 1, "from CT to MRI"),
    ]


def _levels(panel: Panel, plane: np.ndarray, head: np.ndarray) -> np.ndarray:
    """A slice as levels 0 to 255. In the provenance, 0 is outside the head, 1 is inside but not told."""
    share = np.clip((np.nan_to_num(plane, nan=panel.low) - panel.low) / (panel.high - panel.low), 0, 1)
    if panel.colours != "viridis":
        return np.round(255 * share).astype(np.uint8)
    told = np.isfinite(plane) & head
    return np.where(told, np.round(2 + 253 * share), head).astype(np.uint8)


def _palette(panel: Panel) -> bytes | None:
    if panel.colours == "gray":
        return None
    colours = np.round(255 * matplotlib.colormaps[panel.colours](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)
    if panel.colours == "viridis":
        colours[2:] = np.round(255 * matplotlib.colormaps[panel.colours](np.linspace(0, 1, 254))[:, :3])
        colours[:2] = [[0, 0, 0], [_UNTOLD] * 3]
    return colours.tobytes()


def _gradient(panel: Panel) -> str:
    colormap = matplotlib.colormaps[panel.colours]
    return ", ".join(to_hex(colormap(x)) for x in np.linspace(0, 1, 9))


def _webp(image: Image.Image, quality: int = 80) -> bytes:
    """WebP of an image."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=quality, method=3)
    return buffer.getvalue()


def webp_uri(picture: bytes | Image.Image) -> str:
    """A picture as a data URI.

    Args:
        picture: an image, or the bytes of a WebP file.
    """
    if isinstance(picture, Image.Image):
        picture = _webp(picture)
    return "data:image/webp;base64," + base64.b64encode(picture).decode()


class Tiling:
    """Places of the tiles on a sheet, and how a slice becomes a tile.

    Args:
        volumes: of a case.
        view: how slices are cut.
        tile_px: longest side of a tile; None takes what suits the number of slices.
    """

    def __init__(self, volumes: ResultVolumes, view: View, tile_px: int | None = None) -> None:
        self.view, self.head = view, volumes.head
        shown = np.flatnonzero(view.counts(self.head))
        self.slices = list(range(int(shown[0]), int(shown[-1]) + 1)) if len(shown) else list(range(len(view.counts(self.head))))
        rows, columns = view.plane(self.head, self.slices[0]).shape
        extent = (columns * view.spacing_mm[0], rows * view.spacing_mm[1])
        longest = tile_px or (_TILE_PX if len(self.slices) <= _MANY else _SMALL_TILE_PX)
        pixel = max(min(view.spacing_mm), max(extent) / longest)
        self.width, self.height = (max(1, round(e / pixel)) for e in extent)
        self.extent_mm = extent
        self.columns = max(1, math.ceil(math.sqrt(len(self.slices) * self.height / self.width)))
        self.rows = math.ceil(len(self.slices) / self.columns)

    def corner(self, n: int) -> tuple[int, int]:
        """Left and upper edge of tile `n`."""
        return n % self.columns * self.width, n // self.columns * self.height

    def tile(self, panel: Panel, k: int) -> Image.Image:
        """Slice `k` of a panel as levels."""
        assert panel.volume is not None
        levels = _levels(panel, self.view.plane(panel.volume, k), self.view.plane(self.head, k))
        how = Image.Resampling.NEAREST if panel.colours == "viridis" else Image.Resampling.BILINEAR
        return Image.fromarray(np.ascontiguousarray(levels)).resize((self.width, self.height), how)

    def sheet(self, panel: Panel) -> bytes:
        """All slices of a panel as one WebP picture."""
        sheet = Image.new("L", (self.columns * self.width, self.rows * self.height))
        for n, k in enumerate(self.slices):
            sheet.paste(self.tile(panel, k), self.corner(n))
        palette = _palette(panel)
        if palette is not None:
            sheet.putpalette(palette)
        return _webp(sheet)

    def contours(self, mask: np.ndarray, k: int) -> list[np.ndarray]:
        """Outlines of a mask in slice `k`, each ``[N, 2]``: x and y in pixels of the tile."""
        plane = self.view.plane(mask, k) > 0.5
        if not plane.any():
            return []
        scale = np.array([self.height / plane.shape[0], self.width / plane.shape[1]])
        found = find_contours(np.pad(plane.astype(np.float32), 1), 0.5)
        return [approximate_polygon((c - 0.5) * scale, _STRAIGHTENED_PX)[:, ::-1] for c in found]

    def path(self, mask: np.ndarray) -> str:
        """Outlines of a mask in all slices, as the path of an SVG that covers the sheet."""
        parts = []
        for n, k in enumerate(self.slices):
            for contour in self.contours(mask, k):
                points = contour + self.corner(n)
                parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points[:-1]) + "Z")
        return "".join(parts)


def _thumbnail(tiling: Tiling, panel: Panel, masks: list[tuple[np.ndarray, str]], k: int) -> bytes:
    """A small picture of slice `k` with outlines."""
    image = tiling.tile(panel, k).convert("RGB")
    factor = _THUMBNAIL_PX / image.height
    image = image.resize((max(1, round(image.width * factor)), _THUMBNAIL_PX), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    for mask, colour in masks:
        for contour in tiling.contours(mask, k):
            draw.line([(float(x), float(y)) for x, y in contour * factor], fill=colour, width=1)
    return _webp(image, 75)


def make_sheets(volumes: ResultVolumes) -> Sheets:
    """Pictures of all slices of a case.

    Args:
        volumes: of its result.
    """
    view = View.of(volumes)
    tiling = Tiling(volumes, view)
    panels = [p for p in panels_of(volumes) if p.volume is not None]
    named = {"reference": volumes.reference, "lesion": volumes.lesion}
    masks = {name: mask > 0.5 for name, mask in named.items() if mask is not None and mask.any()}
    largest = masks.get("lesion", masks.get("reference"))
    counts = np.zeros(len(tiling.slices)) if largest is None else view.counts(largest)[tiling.slices]
    first = int(np.argmax(counts)) if counts.any() else len(tiling.slices) // 2
    own = masks.get("lesion")
    pixel_cm2 = view.spacing_mm[0] * view.spacing_mm[1] / 100
    areas = [0.0] * len(tiling.slices) if own is None else (view.counts(own)[tiling.slices] * pixel_cm2).tolist()
    centre = (np.array(volumes.fused.shape) - 1) / 2
    world_axis = int(np.argmax(np.abs(volumes.affine[:3, view.axis])))
    places = np.repeat(centre[:, None], len(tiling.slices), 1)  # [3, slices]
    places[view.axis] = tiling.slices
    positions = volumes.affine[world_axis, :3] @ places + volumes.affine[world_axis, 3]
    colours = {"reference": "#3ddc60", "lesion": "#ff4d4d"}
    return Sheets(
        width=tiling.width,
        height=tiling.height,
        columns=tiling.columns,
        rows=tiling.rows,
        first=first,
        positions_mm=[round(float(p), 1) for p in positions],
        axis="RAS"[world_axis],
        areas_cm2=[round(a, 3) for a in areas],
        panels=[
            {
                **{k: getattr(p, k) for k in ("title", "low", "high", "unit", "outlined")},
                "picture": webp_uri(tiling.sheet(p)),
                "gradient": _gradient(p),
            }
            for p in panels
        ],
        outlines={name: tiling.path(mask) for name, mask in masks.items()},
        letters=view.letters(volumes.affine),
        scale_mm=_SCALE_MM,
        scale_percent=round(100 * _SCALE_MM / tiling.extent_mm[0], 2),
        thumbnail=_thumbnail(tiling, panels[0], [(m, colours[n]) for n, m in masks.items()], tiling.slices[first]),
    )
