"""Formats are named for what they are, from their first bytes."""

import gzip
import io
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.images.sources import SourceError
from data_pipelines.images.sources.formats import HEAD_BYTES, ending, identify, judge
from data_pipelines.images.sources.opening import open_source
from tests.data_pipelines.images.sources.making import encoded, noise, tar_bytes

READ = ["PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "JPEG2000", "AVIF"]


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a", "a.2024", "a.txt"])
def test_images_are_taken_whatever_their_names(kind: str, name: str) -> None:
    data = encoded(noise(0), kind)
    verdict = judge(name, len(data), data[:HEAD_BYTES])
    assert (verdict.problem, verdict.passed_over) == (None, None)
    assert verdict.format.name.lower().replace(" ", "") == kind.lower()


def saved(array: object) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


def pillow(kind: str) -> bytes:
    return encoded(noise(0), kind)


BOXES = b"\0\0\0\x18ftyp%s\0\0\0\0%s%s" + bytes(80)
ODD: dict[str, tuple[str, bytes, str]] = {
    "iPhone": ("IMG_1.HEIC", BOXES % (b"heic", b"mif1", b"heic"), r"is HEIC, which is not read \(convert it to PNG"),
    "HEIC as .jpg": ("a.jpg", BOXES % (b"mif1", b"mif1", b"heic"), "is HEIC"),
    "JPEG XL": ("a.jxl", b"\xff\x0a" + bytes(50), r"is JPEG XL, .* \(convert"),
    "JPEG XL in boxes": ("a.jxl", b"\0\0\0\x0cJXL \r\n\x87\n", "is JPEG XL"),
    "Photoshop": ("a.psd", b"8BPS\0\1", r"is PSD, .* \(export it"),
    "TGA": ("a.tga", pillow("TGA"), "is TGA"),
    "DDS": ("a.dds", pillow("DDS"), "is DDS"),
    "QOI": ("a.png", pillow("QOI"), "is QOI"),
    "SGI": ("a.rgb", pillow("SGI"), "is SGI"),
    "EPS": ("a.eps", pillow("EPS"), "is PostScript"),
    "SVG": ("a.svg", b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", r"is SVG, .* \(render it"),
    "Canon": ("a.CR2", b"II*\0\x10\0\0\0CR\2\0", r"is a camera raw file, .* \(develop it"),
    "Nikon, which is TIFF": ("a.NEF", encoded(noise(0), "TIFF"), "is a camera raw file"),
    "Canon in boxes": ("a.cr3", BOXES % (b"crx ", b"crx ", b"isom"), "is a camera raw file"),
    "PCX": ("a.pcx", pillow("PCX"), "is PCX"),
    "a maker's raw file": ("a.X3F", b"\1\2\3\4", "is a camera raw file"),
    "PAM": ("a.pam", b"P7\nWIDTH 1\n", "is PAM"),
    "LFS": (
        "a.png",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n",
        r"is a Git LFS pointer.*git lfs pull",
    ),
    "annex": ("a", b"/annex/objects/SHA256E-s1--4d.png\n", "is a git-annex pointer"),
    "HTML as .jpg": ("a.jpg", b"\n<!DOCTYPE html><title>404</title>", r"is not an image \(it is an HTML page"),
    "HTML without an ending": ("0a1b", b"<html><body>gone", "it is an HTML page"),
    "S3's answer": ("a.jpg", b"<?xml version='1.0'?><Error><Code>AccessDenied", "it is XML, as a server sends"),
    "text": ("a.JPEG", b"see b.jpg", r"is not an image \(it is text\)"),
    "empty": ("a.webp", b"", "is empty"),
    "zeros": ("a.jpg", bytes(4096), "it starts with nothing but zeros"),
    "anything": ("a.jpg", b"\1\2\3\4\5", "its first bytes, 01 02 03 04, match no known format"),
    "no ending": ("a", b"\1\2\3\4\5", "is not an image"),
    "a film as a picture": ("a.jpg", BOXES % (b"isom", b"avc1", b"mp41"), r"is not an image \(it is a video: export"),
    "a download under way": ("a.png.crdownload", encoded(noise(0)), "is an unfinished download"),
    "line ends changed": ("a.png", encoded(noise(0)).replace(b"\r\n", b"\n", 1), "transfer in text mode: download it"),
    "an archive": ("more.zip", b"PK\3\4" + bytes(30), r"is a zip archive, which is not read \(unpack it"),
    "a tar": ("more.tar", tar_bytes({"a.png": b"x"}), "is a tar archive"),
    "RAR": ("more.rar", b"Rar!\x1a\7\0", "is a RAR archive"),
    "Apple's other half": ("a.jpg", b"\0\5\x16\7\0\2\0\0", "it is macOS AppleDouble"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_was_meant_as_an_image_is_named_with_what_to_do(case: str) -> None:
    name, data, message = ODD[case]
    problem = judge(name, len(data), data[:HEAD_BYTES]).problem
    assert problem is not None and re.search(message, problem), problem


BESIDE: dict[str, tuple[bytes, str]] = {
    "README": (b"# my set", "text files"),
    "caption.txt": ("ein Hund, größer".encode(), "text files"),
    "latin-1.txt": ("größer".encode("latin-1") * 3, "text files"),
    "utf-16.csv": ("a;b".encode("utf-16"), "text files"),
    "a.json": (b"{}", "text files"),
    "a.xml": (b"<?xml version='1.0'?><annotation/>", "text files"),
    "index.html": (b"<!doctype html>", "text files"),
    "paper.pdf": (b"%PDF-1.7", "PDF files"),
    "IMG_1.MOV": (BOXES % (b"qt  ", b"qt  ", b"qt  "), "video files"),
    "a.npy": (b"\x93NUMPY\1\0", "NumPy array files"),
    "a.npz": (saved([1]), "NumPy archive files"),
    "a.pkl": (pickle.dumps({}), "Python pickle files"),
    "a.bin": (b"\1\2\3\4", ".bin files"),
    "model.bin": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer files"),
    "_SUCCESS": (b"", "empty files"),
    "folder.ico": (b"\0\0\1\0\1\0", "icon files"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_images_is_passed_over(name: str) -> None:
    data, what = BESIDE[name]
    assert judge(name, len(data), data[:HEAD_BYTES]).passed_over == what


@pytest.mark.parametrize(
    ("name", "want"),
    [("a.PNG", "png"), ("a", ""), ("a.b/c", ""), ("v1.2", ""), ("at 15.04.05", ""), ("a.b.jpeg", "jpeg"), (".x", "x")],
)
def test_endings(name: str, want: str) -> None:
    assert ending(name) == want


def test_avif_that_pillow_cannot_read(monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    monkeypatch.delitem(Image.OPEN, "AVIF")
    assert identify(BOXES % (b"avif", b"mif1", b"miaf")).role == "picture"


def parquet() -> bytes:
    return b"PAR1" + bytes(20)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.parquet", parquet(), r"source .*a\.parquet is Parquet, which is not read: export its images"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "is HDF5"),
        ("a.mat", b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "is MATLAB"),
        ("a.arrow", b"\xff\xff\xff\xff\x08\1\0\0", "is Arrow"),
        ("a.npy", b"\x93NUMPY\1\0", "is a NumPy array"),
        ("a.npz", saved([1]), r"a\.npz holds no images \(skipped: NumPy array files: 1 .*export its images"),
        ("a.pkl", pickle.dumps({}), "is a Python pickle, which is not read: it is not opened because"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "is a 7z archive, which is not read: unpack it and give the folder"),
        ("a.tar.xz", b"\xfd7zXZ\0", "is an xz file, which is not read: unpack it and give the folder"),
        ("a.mp4", BOXES % (b"isom", b"avc1", b"mp41"), "is a video, which is not read: export its frames"),
        ("a.pdf", b"%PDF-1.7", "is PDF, which is not read: export its pages"),
        ("a.gz", gzip.compress(b"text", mtime=0), "is a gzip file"),
    ],
)
def test_files_that_are_no_source_are_named(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message) as error:
        open_source(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_a_folder_of_data_files_is_explained(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(parquet())
    (tmp_path / "README.md").write_text("a card")
    with pytest.raises(SourceError, match=r"holds no images .*Parquet files: 1 \(train.*: export its images as PNG"):
        open_source(str(tmp_path))


def test_zips_that_are_documents() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        opened.writestr("word/document.xml", "x")
    assert judge("a.docx", 100, buffer.getvalue()[:HEAD_BYTES]).passed_over == "office document files"
