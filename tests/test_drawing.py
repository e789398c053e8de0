"""Demo product images: the catalogue holds, and what is drawn is what its description says."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import io
import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lab import drawing
from lab.errors import LabError, ParameterError

CATALOGUE = drawing.load_objects()
TENANTS = [objects.tenant for objects in CATALOGUE.tenants]
TSHIRT = CATALOGUE.of_tenant("ecommerce").kinds[0]
RED = CATALOGUE.colours[0]


def as_jpeg(image: Image.Image, folder) -> Image.Image:
    path = folder / "image.jpg"
    drawing.save_jpeg(image, path)
    with Image.open(path) as read:
        return read.copy()


def luminance(rgb) -> float:
    """Relative luminance, from the definition in WCAG 2.2, one channel at a time."""
    total = 0.0
    for value, weight in zip(rgb, (0.2126, 0.7152, 0.0722), strict=True):
        unit = value / 255
        total += weight * (unit / 12.92 if unit <= 0.04045 else ((unit + 0.055) / 1.055) ** 2.4)
    return total


def contrast(one, other) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def samples(count: int):
    """Kinds and colours of all tenants in turn, so that a few images cover all eleven colours."""
    kinds = [kind for objects in CATALOGUE.tenants for kind in objects.kinds]
    for seed in range(count):
        yield kinds[seed * 7 % len(kinds)], CATALOGUE.colours[seed % len(CATALOGUE.colours)], seed


def glyph_of(kind) -> tuple[Path, int]:
    """The font file and code point of a kind's icon, straight from the package's folder."""
    name, _, glyph = kind.icon.partition(":")
    stem = {
        "mdi6": "materialdesignicons6-webfont",
        "fa6s": "fontawesome6-solid-webfont",
        "ph": "phosphor",
    }[name]
    folder = Path(importlib.util.find_spec("qtawesome").origin).parent / "fonts"
    (font,) = folder.glob(f"{stem}-*.ttf")
    (table,) = folder.glob(f"{stem}-charmap-*.json")
    return font, int(json.loads(table.read_text("utf-8"))[glyph], 16)


def upright(kind) -> np.ndarray:
    """The ink of a kind's icon, as large as it fits and centred, (64, 64) bool."""
    path, code_point = glyph_of(kind)
    canvas = Image.new("L", (600, 600))
    font = ImageFont.truetype(path, 300)
    ImageDraw.Draw(canvas).text((150, 150), chr(code_point), fill=255, font=font)
    ink = canvas.crop(canvas.getbbox())
    return np.asarray(ImageOps.pad(ink, (64, 64))) > 127


# --- the catalogue -----------------------------------------------------------------------------


def test_the_three_demo_tenants_are_there():
    assert TENANTS == ["ecommerce", "medical", "education"]


def test_there_are_enough_colours_and_objects():
    assert len(CATALOGUE.colours) >= 10
    for objects in CATALOGUE.tenants:
        assert len(objects.kinds) >= 32
        assert 5 <= len(objects.categories) <= 8


@pytest.mark.parametrize("language", drawing.LANGUAGES)
def test_names_are_unique_in_each_language(language):
    groups = [CATALOGUE.colours]
    for objects in CATALOGUE.tenants:
        groups += [objects.kinds, objects.categories]
    for group in groups:
        names = [thing.names.in_language(language) for thing in group]
        assert len(set(names)) == len(names)
        assert all(name == name.strip() for name in names)


def test_ids_and_icons_are_unique_within_a_tenant():
    for objects in CATALOGUE.tenants:
        assert len({kind.id for kind in objects.kinds}) == len(objects.kinds)
        assert len({kind.icon for kind in objects.kinds}) == len(objects.kinds)


def test_every_category_has_at_least_three_objects():
    for objects in CATALOGUE.tenants:
        for category in objects.categories:
            assert sum(kind.category == category for kind in objects.kinds) >= 3, category.id


@pytest.mark.parametrize("tenant", TENANTS)
def test_names_are_in_the_script_of_their_language(tenant):
    for kind in CATALOGUE.of_tenant(tenant).kinds:
        assert any("\u4e00" <= char <= "\u9fff" for char in kind.names.zh), kind
        assert not any("\u3040" <= char <= "\u30ff" for char in kind.names.zh), kind
        assert kind.names.en.isascii(), kind
        assert any("\u3040" <= char <= "\u9fff" for char in kind.names.ja), kind


def test_japanese_colours_can_stand_before_a_noun():
    assert all(colour.names.ja.endswith(("い", "の")) for colour in CATALOGUE.colours)


def test_no_colour_name_is_part_of_another():
    """A description then holds the name of exactly one colour, which scoring can rely on."""
    for language in drawing.LANGUAGES:
        names = [colour.names.in_language(language) for colour in CATALOGUE.colours]
        for one, other in itertools.permutations(names, 2):
            assert one not in other


def test_a_catalogue_goes_to_a_worker_and_back():
    assert pickle.loads(pickle.dumps(CATALOGUE)) == CATALOGUE


@pytest.mark.parametrize("tenant", TENANTS)
def test_every_glyph_is_in_its_font(tenant):
    """Against fontTools: the code point is mapped, to a glyph that is not .notdef and not empty."""
    fonts = {}
    for kind in CATALOGUE.of_tenant(tenant).kinds:
        path, code_point = glyph_of(kind)
        font = fonts.setdefault(path, TTFont(path))
        mapped = font.getBestCmap().get(code_point)
        assert mapped not in (None, ".notdef"), kind
        assert font["glyf"][mapped].numberOfContours != 0, kind


@pytest.mark.parametrize("tenant", TENANTS)
def test_no_two_objects_of_a_tenant_look_alike(tenant):
    """Upright outlines, each scaled into the same square, share at most 80 % of their union."""
    outlines = {kind.id: upright(kind) for kind in CATALOGUE.of_tenant(tenant).kinds}
    for one, other in itertools.combinations(outlines, 2):
        a, b = outlines[one], outlines[other]
        assert (a & b).sum() / (a | b).sum() < 0.8, (one, other)


def test_an_unknown_tenant_is_refused():
    with pytest.raises(ParameterError, match=r"tenant must be one of ecommerce.*got 'law'"):
        CATALOGUE.of_tenant("law")


# --- parsing -----------------------------------------------------------------------------------

DOCUMENT = {
    "colours": [{"id": "red", "rgb": [200, 0, 0], "zh": "红色", "en": "red", "ja": "赤い"}],
    "tenants": {
        "shop": {
            "categories": [{"id": "home", "zh": "家居类", "en": "Home", "ja": "家具"}],
            "objects": [
                {
                    "id": "sofa",
                    "icon": "fa6s:couch",
                    "category": "home",
                    "zh": "沙发",
                    "en": "sofa",
                    "ja": "ソファ",
                }
            ],
        }
    },
}


def test_a_document_becomes_a_catalogue():
    catalogue = drawing.parse_objects(DOCUMENT)
    home = drawing.Category("home", drawing.Names("家居类", "Home", "家具"))
    sofa = drawing.ObjectKind("sofa", "fa6s:couch", home, drawing.Names("沙发", "sofa", "ソファ"))
    red = drawing.Colour("red", (200, 0, 0), drawing.Names("红色", "red", "赤い"))
    shop = drawing.TenantObjects("shop", (home,), (sofa,))
    assert catalogue == drawing.ObjectCatalogue((red,), (shop,))


def broken(*keys, value=None):
    """The document with one entry removed, or replaced by a value."""
    document = copy.deepcopy(DOCUMENT)
    inner = document
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return document


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (broken("colours"), r"must have colours.*\(objects\.yaml\)"),
        (broken("colours", 0, "ja"), r"must have ja.*\(objects\.yaml: colours\[0\]\)"),
        (broken("colours", 0, "rgb", value=[1, 2]), r"three whole numbers.*got \[1, 2\]"),
        (broken("colours", 0, "rgb", value=[1, 2, 256]), "three whole numbers"),
        (broken("tenants", "shop", "categories"), r"must have categories.*tenants\.shop\)"),
        (broken("tenants", "shop", "objects", 0, "icon"), r"must have icon.*objects\[0\]"),
        (
            broken("tenants", "shop", "objects", 0, "category", value="garden"),
            r"category must be one of home, got 'garden'",
        ),
        ({"colours": ["red"]}, "must have id"),
    ],
)
def test_a_broken_document_is_refused_with_its_place(document, words):
    with pytest.raises(ParameterError, match=words):
        drawing.parse_objects(document)


# --- descriptions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "text"), [("zh", "红色T恤"), ("en", "Red T-shirt"), ("ja", "赤いTシャツ")]
)
def test_a_description_is_colour_and_object(language, text):
    assert drawing.describe(RED, TSHIRT, language) == text


def test_descriptions_tell_all_images_of_a_tenant_apart():
    for objects in CATALOGUE.tenants:
        for language in drawing.LANGUAGES:
            pairs = list(itertools.product(CATALOGUE.colours, objects.kinds))
            texts = {drawing.describe(colour, kind, language) for colour, kind in pairs}
            assert len(texts) == len(pairs)


@pytest.mark.parametrize("language", ["de", "", "ZH", "__class__"])
def test_a_description_in_another_language_is_refused(language):
    with pytest.raises(ParameterError, match="language must be one of zh, en, ja"):
        drawing.describe(RED, TSHIRT, language)


# --- images ------------------------------------------------------------------------------------


def test_an_image_is_512_by_512_rgb():
    image = drawing.draw(TSHIRT, RED, seed=0)
    assert (image.mode, image.size) == ("RGB", (512, 512))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        drawing.save_jpeg(drawing.draw(TSHIRT, RED, seed=7), tmp_path / name)
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_a_number_and_its_generator_give_the_same_image():
    one = drawing.draw(TSHIRT, RED, seed=7)
    assert one.tobytes() == drawing.draw(TSHIRT, RED, seed=np.random.default_rng(7)).tobytes()
    assert one.tobytes() == drawing.draw(TSHIRT, RED, seed=np.int64(7)).tobytes()


def test_a_generator_is_advanced():
    rng = np.random.default_rng(7)
    first, second = (drawing.draw(TSHIRT, RED, seed=rng) for _ in range(2))
    assert first.tobytes() != second.tobytes()


def test_different_seeds_differ_visibly():
    """Not in the noise only: coarse thumbnails of all pairs differ by more than five levels."""
    thumbnails = [
        np.asarray(drawing.draw(TSHIRT, RED, seed=seed).resize((16, 16)), dtype=float)
        for seed in range(12)
    ]
    for one, other in itertools.combinations(thumbnails, 2):
        assert np.abs(one - other).mean() > 5


def test_the_object_is_whole_and_large_enough():
    for kind, _, seed in samples(60):
        left, top, right, bottom = drawing.place(kind, seed=seed).getbbox()
        assert left > 0
        assert top > 0
        assert right < drawing.SIDE
        assert bottom < drawing.SIDE
        assert max(right - left, bottom - top) >= 0.4 * drawing.SIDE


def test_a_square_object_at_full_size_still_fits():
    """The largest size and tilt of a square do not fit the image: it is then reduced to fit."""
    square = with_icon("mdi6:square")
    boxes = [drawing.place(square, seed=seed).getbbox() for seed in range(150)]
    assert all(min(box[:2]) > 0 and max(box[2:]) < drawing.SIDE for box in boxes)
    assert any(box[2] - box[0] > 460 and box[3] - box[1] > 460 for box in boxes)


def test_objects_contrast_with_their_background(tmp_path):
    for kind, colour, seed in samples(66):
        image = np.asarray(as_jpeg(drawing.draw(kind, colour, seed=seed), tmp_path))
        mask = np.asarray(drawing.place(kind, seed=seed))
        inside, outside = (np.median(image[where], axis=0) for where in (mask > 200, mask == 0))
        assert contrast(inside, outside) > 1.7, (kind.id, colour.id, seed)


def test_the_colour_seen_is_the_colour_named(tmp_path):
    """After JPEG, the object's median colour is nearest to its own of all colours, by far."""
    rgbs = np.array([colour.rgb for colour in CATALOGUE.colours], dtype=float)
    for kind, colour, seed in samples(66):
        image = np.asarray(as_jpeg(drawing.draw(kind, colour, seed=seed), tmp_path))
        seen = np.median(image[np.asarray(drawing.place(kind, seed=seed)) > 200], axis=0)
        distances = np.linalg.norm(rgbs - seen, axis=1)
        own = CATALOGUE.colours.index(colour)
        others = np.delete(distances, own)
        assert distances[own] < 0.75 * others.min(), (kind.id, colour.id, seed)


def test_backgrounds_are_nearly_grey():
    """So that the most saturated thing in the image is the object."""
    for kind, colour, seed in samples(44):
        image = np.asarray(drawing.draw(kind, colour, seed=seed), dtype=float)
        outside = np.median(image[np.asarray(drawing.place(kind, seed=seed)) == 0], axis=0)
        assert outside.max() - outside.min() < 30


def test_an_object_is_not_flat():
    image = np.asarray(drawing.draw(TSHIRT, RED, seed=1).reduce(8), dtype=float)
    inside = np.asarray(drawing.place(TSHIRT, seed=1).reduce(8)) == 255
    assert np.ptp(image[inside].mean(axis=1)) > 10


# --- files -------------------------------------------------------------------------------------


def test_a_jpeg_is_plain_and_carries_no_metadata(tmp_path):
    image = drawing.draw(TSHIRT, RED, seed=0)
    image.info["comment"] = b"drawn by nobody"
    drawing.save_jpeg(image, tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    with Image.open(io.BytesIO(data)) as read:
        assert (read.format, read.mode, read.size) == ("JPEG", "RGB", (512, 512))
        assert set(read.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
    assert b"nobody" not in data
    assert image.info["comment"] == b"drawn by nobody"  # the caller's image is not touched


@pytest.mark.parametrize(("mode", "size"), [("L", (512, 512)), ("RGB", (511, 512))])
def test_an_image_of_another_form_is_refused(mode, size, tmp_path):
    with pytest.raises(ParameterError, match=f"must be 512x512 RGB, got '{size[0]}x512 {mode}'"):
        drawing.save_jpeg(Image.new(mode, size), tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


# --- wrong inputs ------------------------------------------------------------------------------


def with_icon(icon: str) -> drawing.ObjectKind:
    return drawing.ObjectKind(TSHIRT.id, icon, TSHIRT.category, TSHIRT.names)


@pytest.mark.parametrize("icon", ["fa6s:no-such-glyph", "fa6s:", "comic:shirt", "shirt", ""])
def test_an_icon_that_no_font_has_is_refused(icon):
    with pytest.raises(LabError, match="icon") as caught:
        drawing.draw(with_icon(icon), RED, seed=0)
    assert isinstance(caught.value, ParameterError)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "7", None])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(ParameterError, match="seed must be a whole number"):
        drawing.draw(TSHIRT, RED, seed=seed)


def test_without_the_icon_fonts_the_message_names_the_remedy():
    """In a process of its own, since fonts are kept once they are read."""
    code = """
import importlib.util
from lab import drawing
importlib.util.find_spec = lambda name: None
catalogue = drawing.load_objects()
try:
    drawing.draw(catalogue.tenants[0].kinds[0], catalogue.colours[0], seed=0)
except drawing.MissingError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == (
        "icon fonts need the package qtawesome, got None; install tuning-lab[demo]\n"
    )


def test_another_process_draws_the_same_and_never_asks_for_qt():
    """The icon package would need Qt if it were imported; only its files are read."""
    code = """
import hashlib, sys
from lab import drawing
catalogue = drawing.load_objects()
image = drawing.draw(catalogue.of_tenant("ecommerce").kinds[0], catalogue.colours[0], seed=7)
print(hashlib.sha256(image.tobytes()).hexdigest(), {"qtawesome", "qtpy"} & set(sys.modules))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = hashlib.sha256(drawing.draw(TSHIRT, RED, seed=7).tobytes()).hexdigest()
    assert run.stdout == f"{here} set()\n"
