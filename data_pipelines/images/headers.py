"""Checks, without decoding, that stored bytes are laid out as `decode.encode` lays out an image."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_SOF0, _DHT, _EOI, _SOS, _DQT, _DRI, _APP0 = 0xC0, 0xC4, 0xD9, 0xDA, 0xDB, 0xDD, 0xE0
_COLOUR_TYPES = {1: 0, 3: 2}
"""By channels: what a PNG of grey or RGB pixels says."""


def is_plain(data: bytes, resolution: int, channels: int) -> bool:
    """Whether this is a PNG or baseline JPEG of [resolution, resolution, channels] and 8 bits, whole in its outline,
    with nothing in it that need not be there. Its compressed pixels are not looked at.
    """
    if data.startswith(PNG_SIGNATURE):
        return _is_plain_png(data, resolution, channels)
    return data.startswith(b"\xff\xd8") and _is_plain_jpeg(data, resolution, channels)


def _is_plain_png(data: bytes, resolution: int, channels: int) -> bool:
    side = resolution.to_bytes(4)
    header = b"\0\0\0\rIHDR" + side + side + bytes((8, _COLOUR_TYPES[channels], 0, 0, 0))
    place = len(PNG_SIGNATURE)
    if not data.startswith(header, place):
        return False
    place += len(header) + 4  # its checksum
    pixels = False
    while (kind := data[place + 4 : place + 8]) == b"IDAT":
        place += 12 + int.from_bytes(data[place : place + 4])
        pixels = True
    return pixels and kind == b"IEND" and data[place : place + 4] == bytes(4) and len(data) == place + 12


def _is_plain_jpeg(data: bytes, resolution: int, channels: int) -> bool:
    place, framed = 2, False
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4])
        content = data[place + 4 : place + 2 + size]
        if len(content) != size - 2:
            return False
        if kind == _SOF0:
            side = resolution.to_bytes(2)
            if framed or content[:6] != b"\x08" + side + side + bytes((channels,)):
                return False
            framed = True
        elif kind == _SOS:
            return framed and data.endswith(bytes((0xFF, _EOI)))
        elif kind not in (_DHT, _DQT, _DRI, _APP0):
            return False
        place += 2 + size
    return False
