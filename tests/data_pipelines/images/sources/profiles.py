"""Colour profiles for the tests, made here."""

import struct
from itertools import product

import imagecodecs


def rgb(primaries: tuple[float, ...], gamma: float) -> bytes:
    """Of x and y of red, green and blue, and sRGB's white."""
    coordinates = [number for k in (0, 2, 4) for number in (*primaries[k : k + 2], 1.0)]
    profile: bytes = imagecodecs.cms_profile("rgb", whitepoint=[0.3127, 0.3290, 1], primaries=coordinates, gamma=gamma)
    return profile


ADOBE_RGB = rgb((0.64, 0.33, 0.21, 0.71, 0.15, 0.06), 2.2)
DISPLAY_P3 = rgb((0.68, 0.32, 0.265, 0.69, 0.15, 0.06), 2.2)
PRO_PHOTO = rgb((0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), 1.8)
LINEAR_GREY: bytes = imagecodecs.cms_profile("gray", gamma=1.0)


def cmyk() -> bytes:
    """A press of some kind: each ink takes light away, and the table between inks and Lab has two entries an ink."""
    table = bytearray()
    for c, m, y, k in product((0, 1), repeat=4):
        light = (1 - k) * (1 - 0.35 * c) * (1 - 0.5 * m) * (1 - 0.1 * y)
        table += bytes((round(255 * light), 128 + round(60 * (m - c) * light), 128 + round(60 * (y - c) * light)))
    ramp = bytes(range(256))
    identity = struct.pack(">9i", *(65536 if k % 4 == 0 else 0 for k in range(9)))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + 4 * ramp + bytes(table) + 3 * ramp
    name = b"desc\0\0\0\0" + struct.pack(">I", 6) + b"press\0" + bytes(78)
    white = b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)
    at, index, body = 132 + 3 * 12, struct.pack(">I", 3), b""
    for tag, content in ((b"desc", name), (b"wtpt", white), (b"A2B0", lut)):
        index += tag + struct.pack(">II", at + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + index + body
