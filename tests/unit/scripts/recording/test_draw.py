"""The picture of the README: drawn from the committed recording, small, and all in one file."""

import re
import xml.etree.ElementTree as ET

from scripts.recording.__main__ import CAST, PICTURE
from scripts.recording.cast import Cast, frames, read
from scripts.recording.draw import draw
from scripts.recording.palette import hex_colour

SVG = "{http://www.w3.org/2000/svg}"
SHORT = Cast(8, 2, "a <title>", ((0.0, "a&b\r\n\x1b[31m██\x1b[0m"), (1.0, "\x1b[1;1H\x1b[2Kc")))


def test_the_picture_is_that_of_the_recording() -> None:
    assert PICTURE.read_text("utf-8") == draw(read(CAST)), "run `python -m scripts.recording draw`"


def test_recording_and_picture_are_small_and_play_for_10_to_30_seconds() -> None:
    assert len(CAST.read_bytes()) < 100_000
    assert len(PICTURE.read_bytes()) < 300_000
    assert 10 <= frames(read(CAST))[-1].at_s <= 30


def test_the_picture_loads_and_runs_nothing() -> None:
    text = PICTURE.read_text("utf-8")
    assert set(re.findall(r"https?://[^\s\"<]+", text)) <= {
        "http://www.w3.org/2000/svg",  # a name, not an address
        *re.findall(r"http://127\.0\.0\.1:\d+/?", text),  # what the terminal shows
    }
    assert not re.search(r"<script|<image|<foreignObject|@import|url\(|\son\w+=", text)
    assert "/root" not in text
    assert "/home" not in text


def test_each_frame_shows_its_rows_and_equal_rows_are_drawn_once() -> None:
    root = ET.fromstring(draw(SHORT))
    drawn = {group.get("id"): "".join(group.itertext()) for group in root.iter(f"{SVG}g")}
    film = root.find(f"{SVG}g[@class='film']")
    assert film is not None
    shown = [[use.get("href", "").removeprefix("#") for use in frame] for frame in film]
    assert [drawn[name] for name in (shown[0][0], shown[1][0])] == ["a&b", "c"]
    assert shown[0][1] == shown[1][1]
    bar = root.find(f".//{SVG}g[@id='{shown[0][1]}']/{SVG}rect")
    assert bar is not None
    assert (bar.get("width"), bar.get("style")) == ("16", f"fill:{hex_colour(1)}")


def test_colours_of_the_cube_and_the_greys() -> None:
    assert [hex_colour(n) for n in (16, 196, 231, 232, 255)] == [
        *("#000000", "#ff0000", "#ffffff"),
        *("#080808", "#eeeeee"),
    ]
