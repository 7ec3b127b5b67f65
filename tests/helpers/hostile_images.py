"""Image files that announce much and hold little."""

import struct
import zlib


def write(path, content: bytes) -> str:
    with open(path, "wb") as file:
        file.write(content)
    return str(path)


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """An 8-bit grey PNG of zeros; whole where it has up to a million pixels."""
    rows = zlib.compress(bytes(min(10**6, height * (width + 1))))
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(
        ">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + before + png_chunk(b"IDAT", rows) + after
        + png_chunk(b"IEND"))


def jpeg(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0"
    return (b"\xff\xd8\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame
            + b"\xff\xda\0\x08\1\1\0\0\x3f\0\xff\xd9")


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, width, height, 1, 24, 0, 0,
                               0, 0, 0, 0) + bytes(100)


def tiff(width: int, height: int, *tile: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1),
            (278, height), (279, 100)]
    tags += [(322, tile[0]), (323, tile[1]), (324, 8), (325, 100)] if tile else []
    return (b"II*\0" + struct.pack("<IH", 8, len(tags))
            + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(200))


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"," + struct.pack(
        "<HHHHB", 0, 0, width, height, 0) + b"\2\2\x44\1\0;"


def sun_raster(width: int, height: int) -> bytes:
    """A format that OpenCV reads and the project's list for Pillow lacks."""
    return struct.pack(">8I", 0x59a66a95, width, height, 8, width * height, 1, 0, 0) + bytes(100)


def ppm(width: int, height: int) -> bytes:
    return b"P6\n%d %d\n255\n" % (width, height) + bytes(100)
