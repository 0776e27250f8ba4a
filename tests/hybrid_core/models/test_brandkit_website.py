"""HTML and screenshots to tensors: what is read, what is refused, and that a hostile page neither runs nor hangs."""

import io
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from hybrid_core.errors import InvalidInput
from hybrid_core.models.tasks.brand import held_out_sites
from hybrid_core.models.website.colours import colour_name, hex_of, lab_distances, lab_of, rgb_of
from hybrid_core.models.website.html_reader import read_html
from hybrid_core.models.website.reading import (
    FIRST_LEVEL,
    MOST_HTML_BYTES,
    PADDING,
    VOCABULARY,
    html_title,
    html_tokens,
    screenshot_pixels,
    style_tokens,
)

PAGE = "<html><head><title>Acme &amp; Sons | Home</title></head><body><h1>Hello</h1><p>quiet world</p></body></html>"


def png(width: int, height: int, colour: tuple[int, int, int] = (10, 200, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


class Reference(HTMLParser):
    """The standard library's reading of a page that is well formed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(("tag", tag + str(sorted(attrs))))

    def handle_data(self, data: str) -> None:
        self.found.append(("text", data))


def test_well_formed_pages_are_read_as_the_standard_library_reads_them() -> None:
    for page in held_out_sites().html[:40]:
        ours = [
            ("tag", piece.text + str(sorted(piece.attributes.items()))) if piece.kind == "tag" else ("text", piece.text)
            for piece in read_html(page)
        ]
        assert ours == Reference(page).found


@pytest.mark.parametrize(
    "trap",
    [
        *("<!--", "<![CDATA[", "<a ", "</", "<script>", "<a", "</a ", "<?", "<!", "<", "&#", "<svg><a ", "<title>"),
        *("<a '", '<a "', "<p a=b ", "<a href='", "<!-- --!", "<style>", "<div a=\"'", "a&", "#fff ", "<a b='c' "),
    ],
)
def test_a_hostile_page_of_the_largest_size_is_read_or_refused_within_seconds(trap: str) -> None:
    started = time.process_time()
    page = f"<p>{trap * (2 * MOST_HTML_BYTES // len(trap))}"
    assert html_tokens(page, 256).shape == (256,)
    assert list(style_tokens(page[:20_000])) is not None
    # html.parser takes minutes for some of these; this is a guard against hanging, not a figure of speed.
    assert time.process_time() - started < 20


def test_what_scripts_comments_and_foreign_content_hold_is_never_read() -> None:
    clean = html_tokens("<p>one</p><p>two</p>", 16)
    for hidden in ("<!-- <b>x</b> -->", "<!-- --- x -->", "<!DOCTYPE html>", "<?php echo 1 ?>"):
        assert torch.equal(html_tokens(f"<p>one</p>{hidden}<p>two</p>", 16), clean)
    evil = "<script>document.title='<b>owned</b>'</script>"
    words = [piece.text for piece in read_html(f"<p>one{evil}</p>")]
    assert words == ["p", "one", "script"]
    assert [piece.text for piece in read_html("<script>no end <b>x")] == ["script"]


def test_nul_bytes_and_invalid_text_are_replaced_and_not_an_end() -> None:
    tokens = html_tokens(b"<p>\0one\0 \xff\xfe two</p>", 16)
    assert torch.equal(tokens, html_tokens("<p>\ufffdone\ufffd \ufffd\ufffd two</p>", 16))
    assert int((tokens != PADDING).sum()) == 3


def test_only_the_start_of_a_gigantic_page_counts() -> None:
    page = PAGE + "<p>more</p>" * 200_000
    assert torch.equal(html_tokens(page, 4096), html_tokens(page[:MOST_HTML_BYTES], 4096))


def test_a_long_style_sheet_leaves_room_for_the_words() -> None:
    tokens = html_tokens(f"<style>{'a{color:red}' * 5000}</style><p>the words behind it</p>", 64)
    assert torch.equal(tokens[33:38], html_tokens("<p>the words behind it</p>", 5))


def test_a_colour_is_three_tokens_of_the_level_it_has() -> None:
    red, green, blue = style_tokens("#ff8000")
    assert [red - FIRST_LEVEL, green - FIRST_LEVEL - 32, blue - FIRST_LEVEL - 64] == [31, 16, 0]
    assert style_tokens("#f80") == style_tokens("#ff8800")
    assert style_tokens("#ff8000") != style_tokens("#00ff80")
    assert len(style_tokens("a{color:#f8000}")) < 5


def test_tokens_stay_within_the_vocabulary_whatever_the_page() -> None:
    source = np.random.default_rng(3)
    for _ in range(30):
        noise = source.integers(0, 256, 3000, dtype=np.uint8).tobytes()
        tokens = html_tokens(b"<p>" + noise, 300)
        assert 0 <= int(tokens.min()) and int(tokens.max()) < VOCABULARY


def test_the_title_gives_the_name() -> None:
    assert html_title(PAGE) == "Acme & Sons"
    assert html_title("<p>no title</p>") == ""
    assert html_title("<title>Caf\u00e9 of the very long name street</title>") == "Caf of the very"


@pytest.mark.parametrize("broken", ["", "just words", b"\x89PNG\r\n\x1a\n\0\0\0", "\0" * 500, "<", "</p>", "<!-- <p> "])
def test_what_is_no_html_is_refused_in_one_sentence(broken: str | bytes) -> None:
    with pytest.raises(InvalidInput, match="holds no element in its first .* characters; give the page's source$"):
        html_tokens(broken, 64)


def test_an_html_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(InvalidInput, match="html is int; give"):
        html_tokens(7, 64)  # type: ignore[arg-type]


def test_a_plain_area_keeps_its_exact_colour_and_a_long_page_shows_its_top() -> None:
    pixels = screenshot_pixels(png(960, 720), 96, 72)
    assert pixels.shape == (3, 72, 96)
    assert torch.equal((pixels * 255).round()[:, 5, 5], torch.tensor([10.0, 200.0, 30.0]))
    page = Image.new("RGB", (480, 3000), (255, 255, 255))
    page.paste((0, 0, 0), (0, 0, 480, 360))
    assert float(screenshot_pixels(page, 96, 72).max()) == 0.0


def test_the_reduction_is_the_mean_of_what_it_covers() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
    ours = screenshot_pixels(Image.fromarray(noise), 96, 72) * 255
    mean = noise.reshape(72, 5, 96, 5, 3).mean((1, 3))
    assert np.abs(ours.permute(1, 2, 0).numpy() - mean).max() <= 1.0


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [(95, 400, "smaller than the 96 x 72"), (400, 71, "smaller than"), (900, 400, "2 times as wide as high")],
)
def test_a_picture_of_a_size_that_cannot_be_read_is_refused_with_its_size(width: int, height: int, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"^the screenshot is {width} x {height} pixels, .*{reason}.*; "):
        screenshot_pixels(png(width, height), 96, 72)


def test_a_picture_too_large_is_refused_before_its_pixels_are_read() -> None:
    header = io.BytesIO()
    Image.new("1", (9000, 9000)).save(header, "PNG")
    with pytest.raises(InvalidInput, match="9000 x 9000 pixels, more than 40,000,000 in all; make it smaller"):
        screenshot_pixels(header.getvalue(), 96, 72)


@pytest.mark.parametrize("broken", [b"", b"GIF89a", b"<svg></svg>", png(400, 300)[:60]])
def test_what_is_no_picture_is_refused_in_one_sentence(broken: bytes) -> None:
    with pytest.raises(InvalidInput, match="screenshot"):
        screenshot_pixels(broken, 96, 72)


def test_lab_agrees_with_published_values() -> None:
    """Values of the sRGB primaries under D65 as tabulated by Lindbloom."""
    published = {
        (255, 255, 255): (100.0, 0.0, 0.0),
        (0, 0, 0): (0.0, 0.0, 0.0),
        (255, 0, 0): (53.24, 80.09, 67.20),
        (0, 255, 0): (87.73, -86.18, 83.18),
        (0, 0, 255): (32.30, 79.19, -107.86),
    }
    for rgb, lab in published.items():
        assert lab_of(torch.tensor(rgb) / 255).tolist() == pytest.approx(lab, abs=0.02)
    assert lab_distances(torch.zeros(3), torch.ones(3)).item() == pytest.approx(100.0, abs=0.01)


def test_hexadecimal_text_is_read_back_and_anything_else_refused() -> None:
    for rgb in ((0, 0, 0), (1, 127, 255), (250, 4, 16)):
        assert rgb_of(hex_of(rgb)) == rgb
    assert colour_name((254, 254, 250)) in ("white", "ivory")
    for text in ("4682b4", "#4682b", "#4682bg", "red", ""):
        with pytest.raises(InvalidInput, match="is not of the form '#rrggbb'"):
            rgb_of(text)
