"""Demo product images: one icon in one colour on a varied background, with its description.

Owns the catalogue of objects and colours (``grammars/objects.yaml``), the three-language
descriptions and the drawing itself. Knows nothing of corpora, files of a tenant or how many images
are wanted.

The outlines are glyphs of three icon fonts that the package ``qtawesome`` (MIT) carries: Material
Design Icons 6 (``mdi6``, Apache 2.0), Font Awesome 6 Free Solid (``fa6s``, SIL OFL 1.1) and
Phosphor 1 (``ph``, MIT). Only the font files are read; the package is never imported, since that
would need Qt.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from ruamel.yaml import YAML

from lab.errors import MissingError, ParameterError, message

Rgb = tuple[int, int, int]

SIDE = 512  # pixels
JPEG_QUALITY = 88
MIN_GAP = 75  # grey levels between the background and the grey that is as bright as the object

LANGUAGES = ("zh", "en", "ja")

_FONTS = {
    "mdi6": "materialdesignicons6-webfont",
    "fa6s": "fontawesome6-solid-webfont",
    "ph": "phosphor",
}
_INK = 336  # longest side of a cached outline; about the mean size drawn, so scaling stays mild
_EDGE = 3  # empty pixels around an outline, so that a tilted edge is as soft as any other
_MARGIN = 18  # pixels between the object and the edge of the image
_SMALL = 64  # side of the coarse fields that shading, shadow and background are made from
_GRAIN_SIGMAS = (2.0, 3.5, 5.0)  # grey levels
_HELD_OUT_ONE_IN = 10  # looks


@dataclass(frozen=True)
class Names:
    """One word in the three languages of the demo corpora."""

    zh: str
    en: str
    ja: str

    def in_language(self, language: str) -> str:
        """Return the word; ParameterError for a language that is not one of zh, en, ja."""
        if language not in LANGUAGES:
            raise ParameterError(message("language must be one of zh, en, ja", got=language))
        return getattr(self, language)


@dataclass(frozen=True)
class Colour:
    """A colour with attributive names ("red", 红色, 赤い)."""

    id: str
    rgb: Rgb
    names: Names


@dataclass(frozen=True)
class Category:
    """A class of objects; its name is the annotation of an image row."""

    id: str
    names: Names


@dataclass(frozen=True)
class ObjectKind:
    """A thing that can be drawn; ``icon`` is ``font:glyph``."""

    id: str
    icon: str
    category: Category
    names: Names


@dataclass(frozen=True)
class TenantObjects:
    """What one tenant sells or uses."""

    tenant: str
    categories: tuple[Category, ...]
    kinds: tuple[ObjectKind, ...]


@dataclass(frozen=True)
class ObjectCatalogue:
    """All colours, and the objects of every demo tenant."""

    colours: tuple[Colour, ...]
    tenants: tuple[TenantObjects, ...]

    def of_tenant(self, tenant: str) -> TenantObjects:
        """Return one tenant's objects; ParameterError if the catalogue does not know it."""
        for objects in self.tenants:
            if objects.tenant == tenant:
                return objects
        known = ", ".join(objects.tenant for objects in self.tenants)
        raise ParameterError(message(f"tenant must be one of {known}", got=tenant))


@lru_cache(maxsize=1)
def load_objects() -> ObjectCatalogue:
    """Read the packaged catalogue; once per process, since it is frozen."""
    text = (importlib.resources.files("lab") / "grammars" / "objects.yaml").read_text("utf-8")
    return parse_objects(YAML(typ="safe", pure=True).load(text))


def parse_objects(document: Mapping[str, Any]) -> ObjectCatalogue:
    """Turn the document of ``objects.yaml`` into a catalogue.

    Raises: ParameterError at the first key that is missing or category that is not declared.
    """
    colours = tuple(
        Colour(_field(entry, "id", place), _rgb(entry, place), _names(entry, place))
        for place, entry in _entries(document, "colours", "")
    )
    tenants = []
    for tenant, section in _field(document, "tenants", "").items():
        root = f"tenants.{tenant}."
        categories = {
            _field(entry, "id", place): Category(entry["id"], _names(entry, place))
            for place, entry in _entries(section, "categories", root)
        }
        kinds = tuple(
            ObjectKind(
                _field(entry, "id", place),
                _field(entry, "icon", place),
                _category(entry, categories, place),
                _names(entry, place),
            )
            for place, entry in _entries(section, "objects", root)
        )
        tenants.append(TenantObjects(tenant, tuple(categories.values()), kinds))
    return ObjectCatalogue(colours, tuple(tenants))


def describe(colour: Colour, kind: ObjectKind, language: str) -> str:
    """Return the description of an image: 红色沙发, "Red sofa", 赤いソファ.

    Raises: ParameterError for a language that is not one of zh, en, ja.
    """
    first, second = colour.names.in_language(language), kind.names.in_language(language)
    return f"{first.capitalize()} {second}" if language == "en" else first + second


def held_out(kind: ObjectKind, colour: Colour) -> bool:
    """Say whether a look is held out from training; about one in ten is, always the same.

    It depends on the icon, not on what a tenant calls it.
    """
    return zlib.crc32(f"{kind.icon}/{colour.id}".encode()) % _HELD_OUT_ONE_IN == 0


def draw(kind: ObjectKind, colour: Colour, *, seed: int | np.random.Generator) -> Image.Image:
    """Draw an object in a colour, somewhere on a background that does not hide it.

    The background is nearly grey, and at least ``MIN_GAP`` levels lighter or darker than the grey
    that is as bright as the colour. The same seed gives the same pixels; a generator is advanced.

    Returns: (512, 512) RGB.
    Raises: ParameterError for an icon that no font has or a seed below 0; MissingError without the
        icon fonts.
    """
    rng = _generator(seed)
    mask = place(kind, seed=rng)
    image = _background(colour.rgb, rng)
    blurred = mask.reduce(SIDE // _SMALL).filter(ImageFilter.GaussianBlur(1.3))
    image.paste((12, 12, 16), mask=_shadow(blurred, rng))
    image.paste(_shaded(colour.rgb, blurred, rng), mask=mask)
    return ImageChops.add(image, _grain_crop(rng), 1, -128)


def place(kind: ObjectKind, *, seed: int | np.random.Generator) -> Image.Image:
    """Return the outline of an object: random size, place and tilt, mirrored half the time.

    The tilt is at most 25 degrees, so that the object stays recognisable. This is what ``draw``
    with the same seed fills with colour: 255 where the object is.

    Returns: (512, 512) L.
    Raises: as ``draw``.
    """
    rng = _generator(seed)
    outline = _outline(kind.icon)
    tilt = math.radians(rng.uniform(-25, 25))
    scale = rng.uniform(0.48, 0.82) * SIDE / _INK
    cos, sin = math.cos(tilt), math.sin(tilt)
    width = scale * (outline.width * abs(cos) + outline.height * abs(sin))
    height = scale * (outline.width * abs(sin) + outline.height * abs(cos))
    room = SIDE - 2 * _MARGIN
    fit = min(1.0, room / max(width, height))
    scale, width, height = scale * fit, width * fit, height * fit
    x = _MARGIN + width / 2 + rng.random() * (room - width)
    y = _MARGIN + height / 2 + rng.random() * (room - height)
    # Pillow asks for the inverse, from the image to the outline.
    facing = rng.choice((-1, 1))
    xx, xy, yx, yy = facing * cos / scale, facing * sin / scale, -sin / scale, cos / scale
    offset_x = outline.width / 2 - xx * x - xy * y
    offset_y = outline.height / 2 - yx * x - yy * y
    return outline.transform(
        (SIDE, SIDE),
        Image.Transform.AFFINE,
        (xx, xy, offset_x, yx, yy, offset_y),
        resample=Image.Resampling.BICUBIC,
    )


def save_jpeg(image: Image.Image, path: Path) -> None:
    """Write an image as JPEG without metadata; the same pixels give the same bytes.

    Raises: ParameterError unless the image is (512, 512) RGB.
    """
    if image.mode != "RGB" or image.size != (SIDE, SIDE):
        got = f"{image.size[0]}x{image.size[1]} {image.mode}"
        raise ParameterError(message(f"an image must be {SIDE}x{SIDE} RGB", got=got))
    bare = image.copy()
    bare.info = {}  # else a comment or profile that came with the image is written too
    bare.save(path, "JPEG", quality=JPEG_QUALITY)


# --- catalogue ---------------------------------------------------------------------------------


def _field(entry: Mapping[str, Any], key: str, place: str) -> Any:
    if not isinstance(entry, Mapping) or not entry.get(key):
        where = f"objects.yaml: {place}" if place else "objects.yaml"
        raise ParameterError(message(f"an entry must have {key}", got=entry, place=where))
    return entry[key]


def _entries(
    section: Mapping[str, Any], key: str, root: str
) -> Sequence[tuple[str, Mapping[str, Any]]]:
    listed = _field(section, key, root.rstrip("."))
    return [(f"{root}{key}[{index}]", entry) for index, entry in enumerate(listed)]


def _names(entry: Mapping[str, Any], place: str) -> Names:
    return Names(*(_field(entry, language, place) for language in LANGUAGES))


def _rgb(entry: Mapping[str, Any], place: str) -> Rgb:
    values = _field(entry, "rgb", place)
    if len(values) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in values):
        rule = "rgb must be three whole numbers from 0 to 255"
        raise ParameterError(message(rule, got=values, place=f"objects.yaml: {place}"))
    return (values[0], values[1], values[2])


def _category(entry: Mapping[str, Any], categories: Mapping[str, Category], place: str) -> Category:
    category = _field(entry, "category", place)
    if category not in categories:
        rule = f"category must be one of {', '.join(categories)}"
        raise ParameterError(message(rule, got=category, place=f"objects.yaml: {place}"))
    return categories[category]


# --- drawing -----------------------------------------------------------------------------------


def _generator(seed: int | np.random.Generator) -> np.random.Generator:
    if isinstance(seed, np.random.Generator):
        return seed
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ParameterError(message("seed must be a whole number of at least 0", got=seed))
    return np.random.default_rng(seed)


@lru_cache(maxsize=len(_FONTS))
def _icon_font(font: str) -> tuple[Path, Mapping[str, str]]:
    """Return the font's file and its table of glyph name to hexadecimal code point."""
    spec = importlib.util.find_spec("qtawesome")
    if spec is None or not spec.submodule_search_locations:
        rule, remedy = "icon fonts need the package qtawesome", "install tuning-lab[demo]"
        raise MissingError(message(rule, got=None, remedy=remedy))
    folder = Path(spec.submodule_search_locations[0]) / "fonts"
    # The file names carry the font's version, which changes with the package's.
    files = [*folder.glob(f"{_FONTS[font]}-*.ttf")]
    tables = [*folder.glob(f"{_FONTS[font]}-charmap-*.json")]
    if len(files) != 1 or len(tables) != 1:
        rule = f"qtawesome must carry one font {_FONTS[font]} with its table of glyphs"
        raise MissingError(message(rule, got=f"{len(files)} and {len(tables)}"))
    return files[0], json.loads(tables[0].read_text("utf-8"))


@lru_cache(maxsize=256)  # 256 outlines of at most 0.1 MB
def _outline(icon: str) -> Image.Image:
    """Return the glyph as L, the longest side of its ink ``_INK``, with an empty edge."""
    font_name, _, glyph = icon.partition(":")
    if font_name not in _FONTS:
        raise ParameterError(message(f"icon font must be one of {', '.join(_FONTS)}", got=icon))
    path, table = _icon_font(font_name)
    if glyph not in table:
        raise ParameterError(message(f"icon must be a glyph of {path.name}", got=icon))
    char = chr(int(table[glyph], 16))
    probe = _ink(path, char, _INK)
    return ImageOps.expand(_ink(path, char, _INK * _INK / max(probe.size)), border=_EDGE)


def _ink(path: Path, char: str, size: float) -> Image.Image:
    """Return a glyph cropped to what is black; the font's own box includes the advance width."""
    basic = ImageFont.Layout.BASIC  # glyphs stand alone; the same with and without libraqm
    font = ImageFont.truetype(path, size, layout_engine=basic)
    left, top, right, bottom = font.getbbox(char)
    canvas = Image.new("L", (int(right - left) + 2, int(bottom - top) + 2))
    ImageDraw.Draw(canvas).text((1 - left, 1 - top), char, fill=255, font=font)
    return canvas.crop(canvas.getbbox())


def _background(rgb: Rgb, rng: np.random.Generator) -> Image.Image:
    low, high = _grey_range(rgb, rng)
    near = rng.uniform(low, high)
    far = np.clip(near + rng.uniform(-50, 50), low, high)
    tint = rng.uniform(-9, 9, size=3)
    tint -= tint.mean()
    field = _FIELDS[rng.integers(len(_FIELDS))](rng)
    return ImageOps.colorize(field, _triple(near + tint), _triple(far + tint))


def _grey_range(rgb: Rgb, rng: np.random.Generator) -> tuple[float, float]:
    """Return the grey levels, all lighter or all darker, that are far enough from a colour."""
    darkest, lightest = 18.0, 245.0
    level = _grey_level(_luminance(rgb))
    below, above = level - MIN_GAP, level + MIN_GAP
    dark, light = max(0.0, below - darkest), max(0.0, lightest - above)
    if rng.uniform(0, dark + light) < dark:
        return darkest, below
    return above, lightest


def _luminance(rgb: Rgb) -> float:
    """Return the relative luminance of WCAG 2, in [0, 1]."""
    unit = [value / 255 for value in rgb]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in unit]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _grey_level(luminance: float) -> float:
    """Return the level in [0, 255] of the grey that has this relative luminance."""
    if luminance <= 0.0031308:
        return 255 * 12.92 * luminance
    return 255 * (1.055 * luminance ** (1 / 2.4) - 0.055)


def _triple(values: np.ndarray) -> Rgb:
    red, green, blue = np.clip(np.rint(values), 0, 255).astype(int).tolist()
    return (red, green, blue)


def _plain(rng: np.random.Generator) -> Image.Image:
    return Image.new("L", (SIDE, SIDE), int(rng.integers(256)))


def _gradient(rng: np.random.Generator) -> Image.Image:
    return _enlarged(_ramp(rng))


def _spot(rng: np.random.Generator) -> Image.Image:
    axis = np.linspace(-1, 1, _SMALL)
    x, y = rng.uniform(-0.5, 0.5, size=2)
    return _enlarged(np.hypot.outer(axis - y, axis - x) / 1.8)


def _clouds(rng: np.random.Generator) -> Image.Image:
    return _enlarged(rng.random((6, 6)))


def _tabletop(rng: np.random.Generator) -> Image.Image:
    depth = np.linspace(0, 1, _SMALL)[:, None] - rng.uniform(0.5, 0.8)
    wall_and_table = 1 / (1 + np.exp(-depth * 60)) * 0.8 + 0.2 * depth
    return _enlarged(np.broadcast_to(wall_and_table, (_SMALL, _SMALL)))


def _fabric(rng: np.random.Generator) -> Image.Image:
    threads = rng.random((2, SIDE // 2)).repeat(2, axis=1)
    return _as_field(0.5 * np.add.outer(threads[0], threads[1]))


_FIELDS = (_plain, _gradient, _spot, _clouds, _tabletop, _fabric)


def _ramp(rng: np.random.Generator) -> np.ndarray:
    """Return a linear ramp in a random direction, (_SMALL, _SMALL) in [0, 1]."""
    angle = rng.uniform(0, 2 * math.pi)
    axis = np.linspace(-0.5, 0.5, _SMALL)
    ramp = np.add.outer(axis * math.sin(angle), axis * math.cos(angle))
    return 0.5 + ramp / (abs(math.sin(angle)) + abs(math.cos(angle)))


def _as_field(values: np.ndarray) -> Image.Image:
    """Return values in [0, 1] as an L image of the same shape."""
    return Image.fromarray((np.clip(values, 0, 1) * 255).astype(np.uint8))


def _enlarged(values: np.ndarray) -> Image.Image:
    return _as_field(values).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _shadow(blurred: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the opacity of a soft shadow below the object, from its coarse blurred outline."""
    strength, right, down = rng.uniform(0.15, 0.4), rng.uniform(-2, 2), rng.uniform(0.8, 2.5)
    shifted = blurred.transform(
        blurred.size,
        Image.Transform.AFFINE,
        (1, 0, -right, 0, 1, -down),
        resample=Image.Resampling.BILINEAR,
    )
    table = [round(value * strength) for value in range(256)]
    return shifted.resize((SIDE, SIDE), Image.Resampling.BICUBIC).point(table)


def _shaded(rgb: Rgb, blurred: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the colour under light from one side, a little darker towards the outline."""
    light = Image.blend(_as_field(_ramp(rng)), blurred, 0.45)
    depth = rng.uniform(0.09, 0.16)
    base = np.array(rgb) + rng.uniform(-4, 4, size=3)
    dark, bright = base * (1 - depth), base + (255 - base) * depth
    enlarged = light.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return ImageOps.colorize(enlarged, _triple(dark), _triple(bright))


@lru_cache(maxsize=1)
def _grain() -> tuple[Image.Image, ...]:
    """Return sheets of noise around 128 that every image takes a random crop of.

    Fresh noise for each image would take about as long as all the rest together.
    """
    rng = np.random.default_rng(0)
    side = 2 * SIDE
    noise = rng.normal(size=(side, side, 1)) * 0.8 + rng.normal(size=(side, side, 3)) * 0.6
    sheets = (np.clip(np.rint(128 + noise * sigma), 0, 255) for sigma in _GRAIN_SIGMAS)
    return tuple(Image.fromarray(sheet.astype(np.uint8)) for sheet in sheets)


def _grain_crop(rng: np.random.Generator) -> Image.Image:
    sheet = _grain()[rng.integers(len(_GRAIN_SIGMAS))]
    x, y = rng.integers(SIDE, size=2).tolist()
    return sheet.crop((x, y, x + SIDE, y + SIDE))
