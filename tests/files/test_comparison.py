"""The contact sheet: that each picture is in it unchanged, magnified where the box says, and named.

Where things lie is found from the sheet's outline, which the test gives itself: two columns whose
pictures differ in every pixel.
"""

import numpy as np
import pytest

from streamdiffvsr.errors import StreamDiffVSRError
from streamdiffvsr.runtime.files.compare import (
    FRAME,
    GAP,
    PAPER,
    Box,
    Panel,
    bicubic,
    contact_sheet,
    psnr,
    read_picture,
    write_png,
)

BOX = Box(top=10, left=20, height=6, width=16)
HEIGHT, WIDTH, TIMES = 40, 64, 4  # of the pictures; the box fits four times into their width


def noise(seed, size=(HEIGHT, WIDTH)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def columns(sheet):
    """The sheet cut at its gaps."""
    starts = range(GAP, sheet.shape[1], WIDTH + GAP)
    return [sheet[:, start : start + WIDTH] for start in starts]


def place(sheet, part):
    """Returns the place of a picture in the sheet, (top, left); it must be there exactly once."""
    height, width = part.shape[:2]
    corners = (sheet == part[0, 0]).all(-1).nonzero()
    found = [
        (top, left)
        for top, left in zip(*corners, strict=True)
        if np.array_equal(sheet[top : top + height, left : left + width], part)
    ]
    assert len(found) == 1
    return int(found[0][0]), int(found[0][1])


def magnified(picture):
    part = picture[BOX.top : BOX.top + BOX.height, BOX.left : BOX.left + BOX.width]
    return part.repeat(TIMES, axis=0).repeat(TIMES, axis=1)


def test_each_picture_is_whole_above_its_magnified_box():
    pictures = [noise(0), noise(1)]
    sheet = contact_sheet([Panel("one", pictures[0]), Panel("two", pictures[1])], BOX)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == 2 * WIDTH + 3 * GAP
    for column, picture in zip(columns(sheet), pictures, strict=True):
        top, left = place(column, picture[:8])  # above what is marked
        assert left == 0
        below, left = place(column, magnified(picture))
        assert left == 0 and below > top + HEIGHT


def test_the_box_is_marked_around_what_it_holds():
    picture = noise(2)
    (column,) = columns(contact_sheet([Panel("", picture)], BOX))
    top, _ = place(column, picture[:8])
    drawn = column[top : top + HEIGHT]
    changed = (drawn != picture).any(-1)
    assert (drawn[changed] == FRAME).all()
    rows, across = changed.nonzero()
    assert (rows.min(), across.min()) == (BOX.top - 2, BOX.left - 2)
    assert (rows.max(), across.max()) == (BOX.top + BOX.height + 1, BOX.left + BOX.width + 1)
    assert not changed[BOX.top : BOX.top + BOX.height, BOX.left : BOX.left + BOX.width].any()


def test_name_and_caption_are_written_where_they_belong():
    picture = noise(3)
    plain, named, captioned = (
        contact_sheet([Panel(*words)], BOX)
        for words in (("", picture), ("Truth", picture), ("", picture, "PSNR 30 dB"))
    )
    top, _ = place(plain, picture[:8])
    strip = top  # what lies above the picture
    assert (plain[:strip] == PAPER).all()
    assert (named[:strip] != PAPER).any() and (named[strip:] == plain[strip:]).all()
    under = top + HEIGHT
    assert (captioned[:under] == plain[:under]).all()
    assert (captioned[under : under + strip] != plain[under : under + strip]).any()
    assert (captioned[under + strip :] == plain[under + strip :]).all()


@pytest.mark.parametrize(
    "box", [Box(-1, 0, 8, 8), Box(0, 0, HEIGHT + 1, 8), Box(0, WIDTH - 4, 8, 8), Box(0, 0, 0, 8)]
)
def test_a_box_outside_is_refused(box):
    with pytest.raises(ValueError, match="not within"):
        contact_sheet([Panel("one", noise(0))], box)


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="one size"):
        contact_sheet([Panel("a", noise(0)), Panel("b", noise(1, (HEIGHT, WIDTH + 4)))], BOX)


def test_psnr_is_by_its_definition():
    picture = np.full((4, 4, 3), 100, np.uint8)
    assert psnr(picture, picture) == float("inf")
    assert psnr(picture, picture + np.uint8(5)) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(picture + np.uint8(155), picture) == pytest.approx(20 * np.log10(255 / 155))
    with pytest.raises(ValueError, match="shape"):
        psnr(picture, picture[:2])


def test_bicubic_is_centred_and_keeps_a_ramp():
    ramp = np.broadcast_to(np.arange(0, 160, 8, dtype=np.uint8)[None, :, None], (6, 20, 3))
    up = bicubic(np.ascontiguousarray(ramp), 4)
    assert up.shape == (24, 80, 3)
    middle = up[12, 8:-8, 0].astype(float)
    assert np.abs(middle - (2 * np.arange(80) - 3)[8:-8]).max() <= 1


def test_a_png_comes_back_as_it_went(tmp_path):
    write_png(tmp_path / "a.png", noise(4))
    assert (read_picture(tmp_path / "a.png") == noise(4)).all()
    with pytest.raises(StreamDiffVSRError, match="could not write"):
        write_png(tmp_path / "missing" / "a.png", noise(4))
    (tmp_path / "b.png").write_bytes(b"no picture")
    for name in ("b.png", "c.png"):
        with pytest.raises(StreamDiffVSRError, match="could not read the picture"):
            read_picture(tmp_path / name)
