"""The format of a file, from its first bytes, and whether a preparation uses it: the one place that knows formats.

Images that can be read are taken whatever their names. A file that cannot be read is a problem when it looks as if it
was meant as an image; otherwise it is skipped, with a count.
"""

import re
from dataclasses import dataclass
from typing import Literal

from PIL import Image

HEAD_BYTES = 512
"""First bytes of a file that are looked at."""

Role = Literal["image", "picture", "archive", "data", "media", "document", "text", "page", "pointer", "icon", "unknown"]
"""`image` can be read; `picture` is a format that cannot. `page` is what a web server sends instead of a file, and
`pointer` what Git keeps in place of one."""


@dataclass(frozen=True)
class Format:
    """A kind of file."""

    name: str
    role: Role
    advice: str = ""
    """Advice: what to do with it."""

    @property
    def described(self) -> str:
        """The name with an article where it needs one: `HEIC`, `a zip archive`."""
        if not self.name.split()[-1].islower():
            return self.name
        return f"an {self.name}" if self.name[0] in "aeiox" else f"a {self.name}"


_CONVERT = "convert it to PNG or JPEG"
_UNPACK = "unpack it, or give it alone as SOURCE"
_EXPORT = "export its images as PNG or JPEG files and give their folder"
_DOWNLOAD = "download it again"

HEIC = Format("HEIC", "picture", f"{_CONVERT}, for example with heif-convert")
AVIF = Format("AVIF", "image")
JPEG_XL = Format("JPEG XL", "picture", f"{_CONVERT}, for example with djxl")
RAW = Format("camera raw file", "picture", "develop it to PNG, TIFF or JPEG, for example with darktable-cli")
TGA = Format("TGA", "picture", f"{_CONVERT}, for example with ImageMagick")
SVG = Format("SVG", "picture", "render it to PNG, for example with rsvg-convert")
VIDEO = Format("video", "media", "export its frames as PNG or JPEG, for example with ffmpeg")
AUDIO = Format("audio", "media")
PDF = Format("PDF", "document", "export its pages as PNG, for example with pdftoppm")
ICON = Format("icon", "icon")
HTML = Format("HTML", "page", "it is an HTML page, as a server sends instead of a file: " + _DOWNLOAD)
XML = Format("XML", "page", "it is XML, as a server sends instead of a file: " + _DOWNLOAD)
TEXT = Format("text", "text", "it is text")
LFS = Format("Git LFS pointer", "pointer", "run `git lfs pull` where it was cloned")
ANNEX = Format("git-annex pointer", "pointer", "run `git annex get` where it was cloned")
IDX = Format("IDX", "data", "unpack the archive, and give the folder of the files under their usual names")
CIFAR = Format("CIFAR batch", "data", "unpack the archive and give the folder")
PICKLE = Format("Python pickle", "data", "it is not opened because a pickle can run code: " + _EXPORT)
ARROW = Format("Arrow", "data", _EXPORT)
UNKNOWN = Format("unknown", "unknown")

_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", Format("PNG", "image")),
    (0, b"\xff\xd8\xff", Format("JPEG", "image")),
    (0, b"GIF8", Format("GIF", "image")),
    (0, b"II+\0", Format("TIFF", "image")),
    (0, b"MM\0+", Format("TIFF", "image")),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", Format("JPEG 2000", "image")),
    (0, b"\xff\x4f\xff\x51", Format("JPEG 2000", "image")),
    (0, b"\x89PNG", Format("PNG", "picture", "it was changed by a transfer in text mode: " + _DOWNLOAD)),
    (0, b"\xff\x0a", JPEG_XL),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", JPEG_XL),
    (0, b"8BPS", Format("PSD", "picture", "export it from Photoshop or GIMP as PNG")),
    (0, b"gimp xcf", Format("XCF", "picture", "export it from GIMP as PNG")),
    (0, b"qoif", Format("QOI", "picture", _CONVERT)),
    (0, b"DDS ", Format("DDS", "picture", _CONVERT)),
    (0, b"FLIF", Format("FLIF", "picture", _CONVERT)),
    (0, b"BPG\xfb", Format("BPG", "picture", _CONVERT)),
    (0, b"\x76\x2f\x31\x01", Format("OpenEXR", "picture", "map its floating-point pixels to 8 or 16 bits as PNG")),
    (0, b"#?RADIANCE", Format("Radiance HDR", "picture", "map its floating-point pixels to 8 or 16 bits as PNG")),
    (0, b"SIMPLE  =", Format("FITS", "picture", "map its pixels to 8 or 16 bits as PNG")),
    (0, b"\x01\xda\0", Format("SGI", "picture", _CONVERT)),
    (0, b"\x01\xda\x01", Format("SGI", "picture", _CONVERT)),
    (0, b"%!PS", Format("PostScript", "picture", "render it to PNG, for example with ghostscript")),
    (0, b"\xc5\xd0\xd3\xc6", Format("EPS", "picture", "render it to PNG, for example with ghostscript")),
    (0, b"AT&TFORM", Format("DjVu", "picture", "export its pages as PNG, for example with ddjvu")),
    (128, b"DICM", Format("DICOM", "picture", "map its pixels to 8 or 16 bits as PNG, for example with dcm2pnm")),
    (0, b"IIU\0", RAW),
    (0, b"IIRO", RAW),
    (0, b"IIRS", RAW),
    (0, b"FUJIFILMCCD-RAW", RAW),
    (0, b"FOVb", RAW),
    (8, b"CR\x02", RAW),
    (0, b"icns", ICON),
    (0, b"%PDF", PDF),
    (0, b"\x1a\x45\xdf\xa3", VIDEO),
    (0, b"\0\0\x01\xba", VIDEO),
    (0, b"\0\0\x01\xb3", VIDEO),
    (0, b"FLV\x01", VIDEO),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", VIDEO),
    (0, b"ID3", AUDIO),
    (0, b"OggS", AUDIO),
    (0, b"fLaC", AUDIO),
    (0, b"PK\x03\x04", Format("zip archive", "archive", _UNPACK)),
    (0, b"PK\x05\x06", Format("empty zip archive", "archive", "remove it")),
    (0, b"\x1f\x8b", Format("gzip file", "archive", _UNPACK)),
    (0, b"7z\xbc\xaf\x27\x1c", Format("7z archive", "archive", "unpack it and give the folder")),
    (0, b"Rar!", Format("RAR archive", "archive", "unpack it and give the folder")),
    (0, b"\xfd7zXZ", Format("xz file", "archive", "unpack it (`tar xf`, `unxz`) and give the folder")),
    (0, b"BZh", Format("bzip2 file", "archive", "unpack it (`tar xf`, `bunzip2`) and give the folder")),
    (0, b"\x28\xb5\x2f\xfd", Format("zstd file", "archive", "unpack it (`tar xf`, `unzstd`) and give the folder")),
    (257, b"ustar", Format("tar archive", "archive", _UNPACK)),
    (0, b"\0\0\x08\x01", IDX),
    (0, b"\0\0\x08\x03", IDX),
    (0, b"\x93NUMPY", Format("NumPy array", "data", _EXPORT)),
    (0, b"\x89HDF\r\n\x1a\n", Format("HDF5", "data", _EXPORT)),
    (0, b"MATLAB 5.0 MAT-file", Format("MATLAB", "data", _EXPORT)),
    (0, b"PAR1", Format("Parquet", "data", _EXPORT)),
    (0, b"ARROW1", ARROW),
    (0, b"SQLite format 3\0", Format("SQLite", "data", _EXPORT)),
    (16, b"\xde\xc0\xef\xbe", Format("LMDB", "data", "give its folder alone as SOURCE")),
    (0, b"\0\x05\x16\x07", Format("macOS AppleDouble", "document")),
    (0, b"version https://git-lfs.github.com/spec/", LFS),
    (0, b"version https://hawser.github.com/spec/", LFS),
    (0, b"/annex/objects/", ANNEX),
)


def _endings(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IMAGE_ENDINGS = _endings(
    "png apng jpg jpeg jpe jfif pjpeg pjp mpo webp bmp dib tif tiff ppm pgm pbm pnm gif avif jp2 j2k jpx jpf jpc"
)
_RAW_ENDINGS = _endings("cr2 cr3 crw nef nrw arw srf sr2 dng orf rw2 raf pef srw x3f 3fr iiq raw rwl erf kdc dcr")
_PICTURE_ENDINGS = _RAW_ENDINGS | _endings(
    "heic heif hif jxl tga psd psb xcf qoi dds exr hdr pfm svg svgz eps ai pcx sgi rgb fits fit dcm flif bpg"
)
_UNFINISHED_ENDINGS = _endings("part crdownload download partial opdownload filepart")
_ZIPPED_DATA = {
    "npz": Format("NumPy archive", "data", _EXPORT),
    "pt": Format("PyTorch file", "data", PICKLE.advice),
    "pth": Format("PyTorch file", "data", PICKLE.advice),
    "docx": Format("office document", "document"),
    "xlsx": Format("office document", "document"),
    "pptx": Format("office document", "document"),
}
_BY_NAME = {
    "tga": TGA,
    "pcx": Format("PCX", "picture", f"{_CONVERT}, for example with ImageMagick"),
    **dict.fromkeys(_RAW_ENDINGS, RAW),
}
_PAGE_ENDINGS = _endings("html htm xhtml shtml mht mhtml php xml xmp")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)


def ending(name: str) -> str:
    """The ending of a file name after its last dot, in lower case; empty when there is none."""
    _, dot, last = name.rpartition("/")[2].rpartition(".")
    return last.lower() if dot and re.fullmatch(r"[A-Za-z0-9!~]{1,12}", last) and not last.isdigit() else ""


def has_image_ending(name: str) -> bool:
    """Whether a file with this name can be read, if its content matches its name."""
    return ending(name) in _IMAGE_ENDINGS


def has_picture_ending(name: str) -> bool:
    """Whether a file with this name is a picture of a format that is not read."""
    return ending(name) in _PICTURE_ENDINGS


def may_be_image(name: str) -> bool:
    """Whether a file with this name could be meant as an image: by an image's ending, or because it has none."""
    end = ending(name)
    return not end or end in _IMAGE_ENDINGS or end in _PICTURE_ENDINGS


def identify(head: bytes, name: str = "") -> Format:
    """The format of a file from its first HEAD_BYTES bytes; its name decides where those of several are alike."""
    end = ending(name)
    if (head.startswith((b"II*\0", b"MM\0*"))) and not head.startswith(b"CR\x02", 8):
        return RAW if end in _RAW_ENDINGS else Format("TIFF", "image")
    if head.startswith(b"PK\x03\x04") and end in _ZIPPED_DATA:
        return _ZIPPED_DATA[end]
    for place, magic, known in _MAGIC:
        if head.startswith(magic, place):
            return known
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return Format("BMP", "image")
    if re.match(rb"P[1-6]\s+[#\d]", head):
        return Format("PPM", "image")
    if head.startswith(b"P7\nWIDTH"):
        return Format("PAM", "picture", _CONVERT)
    if re.match(rb"P[Ff]\s+\d", head):
        return Format("PFM", "picture", "map its floating-point pixels to 8 or 16 bits as PNG")
    if head.startswith(b"RIFF"):
        return {b"WEBP": Format("WebP", "image"), b"AVI ": VIDEO, b"WAVE": AUDIO}.get(head[8:12], UNKNOWN)
    if head[4:8] == b"ftyp":
        return _of_boxes(head)
    if re.match(rb"\x80[\x02-\x05]", head):
        return CIFAR if re.search(r"(^|/)(data|test)_batch", name) else PICKLE
    if end in ("ico", "cur") and head.startswith((b"\0\0\x01\0", b"\0\0\x02\0")):
        return ICON
    if end in _BY_NAME and head and not _is_text(head):  # without magic bytes, or with many kinds of them
        return _BY_NAME[end]
    if end in ("arrow", "feather") and head.startswith(b"\xff\xff\xff\xff"):  # a stream, without the file's magic
        return ARROW
    return _of_text(head) if _is_text(head) else UNKNOWN


def _of_boxes(head: bytes) -> Format:
    """The format of a file that starts with the `ftyp` box of ISO media, from its brands."""
    size = min(max(int.from_bytes(head[:4]), 12), len(head))
    brands = [head[8:12], *(head[k : k + 4] for k in range(16, size, 4))]
    if b"avif" in brands or b"avis" in brands:
        Image.init()
        return AVIF if "AVIF" in Image.OPEN else Format("AVIF", "picture", f"{_CONVERT}: this Pillow cannot read it")
    if brands[0] == b"crx ":
        return RAW
    return HEIC if any(brand in _HEIC_BRANDS for brand in brands) else VIDEO


def _of_text(head: bytes) -> Format:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in start:
        return SVG
    if re.match(rb"<!doctype html|<html|<head|<body|<script|<!--", start):
        return HTML
    return XML if start.startswith(b"<?xml") else TEXT


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16 says so itself
        return True
    return bool(head) and not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", head)  # in whatever encoding


@dataclass(frozen=True)
class Verdict:
    """The verdict on a file: it is used, or cannot be used (`problem`), or is skipped (`passed_over`)."""

    format: Format
    problem: str | None = None
    """Why it cannot be used: the rest of a sentence about it."""
    passed_over: str | None = None
    """The name for such files, in the plural."""


def judge(name: str, size: int, head: bytes, meant: bool = False) -> Verdict:
    """The verdict on a file of `size` bytes that starts with `head`. `meant`: it is an image whatever its name."""
    found, end = identify(head, name), ending(name)
    if end in _UNFINISHED_ENDINGS:
        return Verdict(found, "is an unfinished download (finish it, or remove it)")
    if found.role == "image":
        return Verdict(found)
    if found.role in ("picture", "archive"):
        return Verdict(found, f"is {found.described}, which is not read ({found.advice})")
    meant = meant or end in _IMAGE_ENDINGS or end in _PICTURE_ENDINGS
    if size == 0:
        return Verdict(found, "is empty (download or copy it again)") if meant else Verdict(found, None, "empty files")
    if found.role == "pointer" and (meant or not end):
        return Verdict(found, f"is {found.described}, not the image itself ({found.advice})")
    if meant or (found.role == "page" and end not in _PAGE_ENDINGS) or (found is UNKNOWN and not end):
        return Verdict(found, f"is not an image ({_doubt(found, head)})")
    return Verdict(found, None, _plural(found, end))


def _doubt(found: Format, head: bytes) -> str:
    if found.role in ("page", "text"):
        return found.advice
    if found is not UNKNOWN:
        return f"it is {found.described}" + f": {found.advice}" * bool(found.advice)
    if not any(head):
        return f"it starts with nothing but zeros, as after a failed download: {_DOWNLOAD}"
    return f"its first bytes, {head[:4].hex(' ')}, match no known format"


def _plural(found: Format, end: str) -> str:
    if found is UNKNOWN:
        return f".{end} files"
    return "text files" if found.role in ("text", "page") else f"{found.name} files"
