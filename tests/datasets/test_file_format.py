"""Images that must not be decoded: too large, or of a kind that can take over OpenCV."""

import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers import hostile_images as hostile
from paddle_csrl import limits
from paddle_csrl.datasets import file_format
from paddle_csrl.datasets.file_format import is_webp, open_image, require_decodable
from paddle_csrl.datasets.label_scan import read_image
from paddle_csrl.errors import UserError


@pytest.mark.parametrize("content", [
    hostile.png(60000, 50000), hostile.png(2**31 - 1, 2**31 - 1), hostile.jpeg(65500, 65500),
    hostile.bmp(60000, 50000), hostile.tiff(60000, 50000), hostile.tiff(8, 8, 60000, 50000),
    hostile.gif(65000, 65000), hostile.ppm(10**6, 10**6)],
    ids=["png", "png max", "jpeg", "bmp", "tiff", "tiff tile", "gif", "ppm"])
def test_gigapixels_are_seen_in_the_header(tmp_path, content):
    """No file has more than a few kilobytes, so that no pixel can have been decoded."""
    path = hostile.write(tmp_path / "x", content)
    for look in (require_decodable, lambda path: open_image(path).__enter__()):
        with pytest.raises(UserError, match=f"^{path} has .* pixels, above the limit .* tiles"):
            look(path)


def test_a_format_that_pillow_is_not_asked_about_meets_opencvs_own_limit(tmp_path):
    """OpenCV reads it when it is loaded: in conftest.py, after the package has set it."""
    path = hostile.write(tmp_path / "x.ras", hostile.sun_raster(50000, 50000))
    with pytest.raises(UserError, match=f"^image {path} cannot be read.*CV_IO_MAX_IMAGE_PIXELS"):
        read_image(path)


def test_a_file_of_gigabytes(tmp_path):
    path = hostile.write(tmp_path / "x.png", hostile.png(8, 8))
    with open(path, "rb+") as file:
        file.truncate(10**11)
    with pytest.raises(UserError, match=f"{path} has 100000000000 bytes, above the limit"):
        require_decodable(path)


def test_a_photograph_of_100_megapixels_is_let_through(tmp_path, recwarn):
    assert 11648 * 8736 < limits.MOST_PIXELS
    require_decodable(hostile.write(tmp_path / "x.jpg", hostile.jpeg(11648, 8736)))
    assert not [warning for warning in recwarn if "bomb" in str(warning.message)]


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
def test_texts_that_unpack_to_gigabytes(tmp_path, place, kind):
    text = b"k\0\0" + zlib.compress(bytes(10**4))
    texts = hostile.png_chunk(kind, text) * (limits.MOST_TEXTS + 1)
    path = hostile.write(tmp_path / "x.png", hostile.png(8, 8, **{place: texts}))
    with pytest.raises(UserError, match=f"{path} holds more than 20 compressed texts"):
        require_decodable(path)
    few = hostile.png_chunk(kind, text) * limits.MOST_TEXTS
    require_decodable(hostile.write(path, hostile.png(8, 8, **{place: few})))


def encoded(image, **options):
    stream = io.BytesIO()
    image.save(stream, "WEBP", **options)
    return stream.getvalue()


def webp_forms():
    """WebP in every form that libwebp takes, or took: whole, and from an inner part on."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 4)).astype(np.uint8)
    lossless = encoded(Image.fromarray(noise[..., :3]), lossless=True)
    lossy, alpha = encoded(Image.fromarray(noise[..., :3])), encoded(Image.fromarray(noise))
    return {"lossless": lossless, "VP8L": lossless[12:], "bare lossless": lossless[20:],
            "lossy": lossy, "VP8": lossy[12:], "bare lossy": lossy[20:],
            "alpha": alpha, "VP8X": alpha[12:], "ALPH": alpha[alpha.index(b"ALPH"):]}


@pytest.mark.parametrize("form", webp_forms())
def test_no_form_of_webp_reaches_an_opencv_that_it_can_take_over(tmp_path, form, monkeypatch):
    content = webp_forms()[form]
    assert is_webp(content[:16])
    path = hostile.write(tmp_path / "photo.jpg", content)
    monkeypatch.setattr(file_format, "_WEBP_IS_UNSAFE", True)
    with pytest.raises(UserError, match=f"{path} is a WebP.*CVE-2023-4863.*opencv-python>=4.8.1"):
        require_decodable(path)


def test_opencv_takes_more_for_webp_than_what_begins_as_one():
    """Else the list of forms would prove nothing."""
    taken = [form for form, content in webp_forms().items()
             if cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) is not None]
    assert {"lossless", "VP8L", "bare lossless"} <= {*taken}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "GIF", "PPM", "TGA", "JPEG2000"])
def test_other_formats_are_no_webp(tmp_path, kind):
    path = str(tmp_path / "x")
    Image.fromarray(np.full((40, 50, 3), 7, np.uint8)).save(path, kind)
    require_decodable(path)
    with open(path, "rb") as file:
        assert not is_webp(file.read(16))


def test_no_program_is_started_for_a_label(tmp_path):
    """Pillow hands PostScript to Ghostscript."""
    path = hostile.write(tmp_path / "label.png", b"%!PS-Adobe-3.0 EPSF-3.0\n"
                                                b"%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with Image.open(path) as image:
        assert image.format == "EPS"
    with pytest.raises(OSError):
        open_image(path).__enter__()
