import gzip
import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data_pipelines.images.prepare import PrepareError, prepare
from data_pipelines.images.sources import ImageError, Source, SourceError
from data_pipelines.images.sources.opening import open_source
from tests.data_pipelines.images.sources.making import encoded, link, noise, pngs, small, tar_bytes, write_tar


def opened(where: Path | str, **options: Any) -> Source:
    source: Source = pickle.loads(pickle.dumps(open_source(str(where), **options)))
    return source


def contents(where: Path | str, **options: Any) -> dict[str, object]:
    source = opened(where, **options)
    return {name: source.read(i) for i, name in enumerate(source.listing.names)}


def labels_of(source: Source) -> list[int | None]:
    return [source.listing.label(i) for i in range(len(source))]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards as img2dataset and webdataset's own writer make them, with files about them beside."""
    webdataset = pytest.importorskip("webdataset")
    folder = tmp_path / "shards"
    folder.mkdir()
    with webdataset.ShardWriter(f"{folder}/x-%06d.tar", maxcount=3, verbose=0) as writer:
        for i in range(8):
            image = {"jpg": encoded(noise(i), "JPEG")} if i % 2 else {"png": encoded(noise(i))}
            writer.write({"__key__": f"{i:04d}", "cls": i % 5, "json": {"i": i}, "txt": "a.b", **image})
    (folder / "x-000000_stats.json").write_text("{}")
    return folder


def test_what_webdataset_yields(shards: Path) -> None:
    """Names, contents and labels, in its order."""
    import webdataset
    from webdataset.tariterators import base_plus_ext

    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    want = [
        (sample["__key__"], sample.get("png", sample.get("jpg")), int(sample["cls"]))
        for sample in webdataset.WebDataset(urls, shardshuffle=False)
    ]
    assert len(want) == 8
    for where in (shards, f"{shards}/x-{{000000..000002}}.tar", f"{shards}/x-*.tar", "::".join(urls)):
        source = opened(where)
        found = zip(source.listing.names, labels_of(source), strict=True)
        assert [(base_plus_ext(name)[0], source.read(i), k) for i, (name, k) in enumerate(found)] == want
    assert opened(shards).listing.classes == ("0", "1", "2", "3", "4")
    assert opened(shards, labels="none").listing.classes == ()


def test_samples_are_grouped_as_webdataset_does(tmp_path: Path) -> None:
    import webdataset

    files = {
        "readme": b"without a dot",
        "about.txt": b"no image",
        "a/1.png": b"1",
        "a/1.seg.txt": b"x",
        "a.b/1.PNG": b"2",
        "__meta__/x.png": b"meta",
        "c/.hidden.png": b"x",
        "c/2.v1.jpg": b"3",
        "c/2.cls": b"0",
    }
    path = write_tar(tmp_path / "a.tar", files)
    want = {
        f"{sample['__key__']}.{ending}": data
        for sample in webdataset.WebDataset(str(path), shardshuffle=False)
        for ending, data in sample.items()
        if ending in ("png", "v1.jpg")
    }
    assert contents(path, labels="none") == {"a/1.png": b"1", "a.b/1.PNG": b"2", "c/2.v1.jpg": b"3"}
    assert list(want.values()) == [b"1", b"2", b"3"]


@pytest.mark.parametrize("name", ["images.tar", "images.tar.gz", "images.zip", "images"])
def test_kind_is_told_by_content(tmp_path: Path, name: str) -> None:
    for k, data in enumerate((tar_bytes(pngs(3)), gzip.compress(tar_bytes(pngs(3))))):
        (tmp_path / name).write_bytes(data)
        assert contents(tmp_path / name, spool=tmp_path / "spool") == pngs(3)
        assert len(list(tmp_path.glob("spool/*"))) == k


def test_compressed_shards_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "0.tgz").write_bytes(gzip.compress(tar_bytes({"a.png": b"1"})))
    (tmp_path / "s" / "1.tar").write_bytes(tar_bytes({"b.png": b"2"}))
    (tmp_path / "s" / "2.tar.gz").write_bytes(gzip.compress(tar_bytes({"c.png": b"3"})))
    assert contents(tmp_path / "s", spool=tmp_path / "spool") == {"a.png": b"1", "b.png": b"2", "c.png": b"3"}
    (tmp_path / "s" / "0.tgz").write_bytes(gzip.compress(tar_bytes({"a.png": b"4"})))  # another file by then
    assert contents(tmp_path / "s", spool=tmp_path / "spool")["a.png"] == b"4"
    with pytest.raises(SourceError, match=r"0\.tgz has to be copied first"):
        open_source(str(tmp_path / "s"))


def test_names_lead_with_no_dot(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"./x/0.png": b"1", "././y/1.png": b"2"})
    assert list(opened(path).listing.names) == ["x/0.png", "y/1.png"]


def test_plain_pictures_are_no_samples(tmp_path: Path) -> None:
    """Dots in names, as of screenshots; two formats of one picture; captions; the order of an unpacked folder."""
    names = ["z at 15.04.05.png", "z at 15.10.59.png", "v1.2/a.b.png", "./a.jpg", "a.png", "__x__/b.PNG", "c.png"]
    files = {name: encoded(noise(i)) for i, name in enumerate(names)} | {
        "c.txt": b"a caption",
        "z at 15.10.59.txt": b"x",
    }
    source = opened(write_tar(tmp_path / "a.tar", files))
    assert list(source.listing.names) == sorted(name.removeprefix("./") for name in names)
    assert source.read(1) == files["./a.jpg"]
    assert source.found.passed_over["text files"].files == 2


# Labels and splits.


def test_folders_are_labels_and_splits(tmp_path: Path) -> None:
    names = ["train/cat/0.png", "train/dog/1.png", "test/cat/2.png", "test/dog/3.png"]
    listing = opened(write_tar(tmp_path / "a.tar", {name: b"x" for name in names})).listing
    assert listing.classes == ("cat", "dog")
    assert list(listing.names) == sorted(names)
    assert listing.labels is not None and listing.labels.tolist() == [0, 1, 0, 1]
    assert listing.test is not None and listing.test.tolist() == [True, True, False, False]


@pytest.mark.parametrize("cls", [True, False])
def test_names_of_tars_are_a_split(tmp_path: Path, cls: bool) -> None:
    """As of ImageNet's shards; none of those for testing is taken for training."""
    for k, name in enumerate(("in-train-000000", "in-train-000001", "in-val-000000")):
        files = {f"{k}{i}.png": encoded(noise(10 * k + i)) for i in range(2)} | ({f"{k}1.cls": b"1"} if cls else {})
        write_tar(tmp_path / f"{name}.tar", files)
    source = opened(tmp_path, labels="none")
    assert list(source.listing.names) == ["00.png", "01.png", "10.png", "11.png", "20.png", "21.png"]
    assert source.listing.test is not None and source.listing.test.tolist() == [False] * 4 + [True] * 2
    assert opened(f"{tmp_path}/in-train-*.tar", labels="none").listing.test is None
    write_tar(tmp_path / "more.tar", pngs(1))
    with pytest.raises(SourceError, match=r"archives for training and for testing, but .*more\.tar is neither"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("around", ["", "a/test/c/d/e/f/g"])
def test_folders_of_tars_are_a_split(tmp_path: Path, around: str) -> None:
    """However deep they lie."""
    folder = tmp_path / around
    for k, name in enumerate(("train/0", "train/1", "val/0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_tar(folder / f"{name}.tar", {f"{k}{i}.png": encoded(noise(10 * k + i)) for i in range(2)})
    listing = opened(f"{folder}/{{train,val}}/*.tar").listing
    assert listing.test is not None and listing.test.tolist() == [False] * 4 + [True] * 2


def test_folders_that_only_cut_a_running_number_are_no_labels(tmp_path: Path) -> None:
    """In whatever order an archive has them."""
    names = ["01000/01001.png", "00000/00000.png", "01000/01000.png", "00000/00001.png"]
    path = write_tar(tmp_path / "a.tar", {name: b"x" for name in names})
    assert opened(path).listing.classes == ()
    assert opened(path, labels="folders").listing.classes == ("00000", "01000")


def test_dataset_json(tmp_path: Path) -> None:
    labels = json.dumps({"labels": [["00.png", 2], ["01.png", 0]]}).encode()
    path = write_tar(tmp_path / "a.tar", {"dataset.json": labels} | pngs(2))
    assert labels_of(opened(path)) == [2, 0]
    (tmp_path / "b.tar").write_bytes(tar_bytes({"dataset.json": labels, "x.png": b""}))
    with pytest.raises(SourceError, match="several files dataset"):
        open_source(f"{tmp_path}/{{a,b}}.tar")


@pytest.mark.parametrize("label", [b"", b"-1", b"1.5", b"cat", b"100000", b"9" * 5000, "²".encode()])
def test_bad_labels(tmp_path: Path, label: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", {"k.cls": label, "k.png": b"x"})
    with pytest.raises(SourceError, match=r"a\.tar gives the sample 'k' at offset 512 the label .*whole numbers") as e:
        open_source(str(path))
    assert "\n" not in str(e.value) and len(str(e.value)) < 300
    assert len(open_source(str(path), "none")) == 1


def test_labels_may_have_a_line_of_their_own(tmp_path: Path) -> None:
    files = {"a.cls": b" 7\n", "a.png": b"x", "b.png": b"y", "b.cls": b"99999"}
    source = opened(write_tar(tmp_path / "a.tar", files))
    assert labels_of(source) == [7, 99999] and len(source.listing.classes) == 100_000


def test_samples_without_label_are_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.cls": b"1"} | {"a.png": pngs(1)["00.png"]} | pngs(2))
    with pytest.raises(PrepareError, match=r"^00\.png in .* has no label though others have, and 1 more"):
        prepare(path, tmp_path / "out", small())


# Keys.


def test_keys_that_repeat_in_other_shards(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes({"cat/0.png": name.encode(), "dog/1.png": b"x"}))
    source = opened(f"{tmp_path}/{{one,two}}.tar")
    assert list(source.listing.names) == ["one/cat/0.png", "one/dog/1.png", "two/cat/0.png", "two/dog/1.png"]
    assert source.listing.classes == ("cat", "dog")  # not the shards
    assert source.read(2) == b"two"
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.tar").write_bytes((tmp_path / "two.tar").read_bytes())
    names = opened(f"{tmp_path}/one.tar::{tmp_path}/more/one.ta[r]").listing.names
    assert names[0] == "000000/cat/0.png" and names[2] == "000001/cat/0.png"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.png", b"1"), ("b.png", b"2"), ("a.png", b"3")], r"'a\.png' twice, again at offset 2560"),
        ([("a.png", b"1"), ("b.png", b"2"), ("a.cls", b"3")], r"'a' again at offset 2560"),
        ([("a.png", b"1"), ("a.png", b"2")], r"'a\.png' twice, again at offset 1536"),
        ([("a.png", b"1"), ("a.PNG", b"2"), ("a.cls", b"3")], r"'a\.PNG' twice"),
        ([("a.png", b"1"), ("a.jpg", b"2"), ("a.json", b"")], r"several images of 'a' \(png, jpg\): say with --member"),
        ([("a.l.png", b"1"), ("a.r.png", b"2"), ("a.cls", b"0")], r"several images of 'a' \(l\.png, r\.png\)"),
        ([("../a.png", b"1")], "whose name leads out of it"),
        ([("/a.png", b"1")], "whose name leads out of it"),
        ([("a.txt", b"1")], r"holds no images \(skipped: text files: 1 \(a\.txt\)\): .*--member"),
        ([], "holds no images"),
    ],
)
def test_what_cannot_be_told_apart(tmp_path: Path, files: list[tuple[str, bytes]], message: str) -> None:
    data = b"".join(tar_bytes({name: content})[:1024] for name, content in files) + bytes(1024)
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(SourceError, match=rf"x\.tar.*{message}") as error:
        open_source(str(tmp_path / "x.tar"))
    assert "\n" not in str(error.value)


def test_member_says_which(tmp_path: Path) -> None:
    files = {"a.left.png": b"1", "a.right.png": b"2", "b.left.png": b"3", "b.right.PNG": b"4", "about.txt": b"x"}
    path = write_tar(tmp_path / "a.tar", files)
    assert contents(path, member="right.png") == {"a.right.png": b"2", "b.right.PNG": b"4"}
    assert contents(path, member=".left.PNG") == {"a.left.png": b"1", "b.left.png": b"3"}
    source = opened(write_tar(tmp_path / "b.tar", files | {"c.left.png": b"5"}), member="right.png")
    assert list(source.listing.names) == ["a.right.png", "b.right.PNG", "c"]
    with pytest.raises(ImageError, match=r"is a sample without right\.png, it has left\.png"):
        source.read(2)
    other = write_tar(tmp_path / "c.tar", {"a.data": b"1"})
    assert contents(other, member="data") == {"a.data": b"1"}


# What is no file.


def special(kind: bytes) -> tarfile.TarInfo:
    header = tarfile.TarInfo("b.png")
    header.type = kind
    return header


def test_links_are_not_followed(tmp_path: Path) -> None:
    images = pngs(1)
    files: Mapping[str, Any] = {"b.png": link("b.png", "/etc/passwd"), **images, "d.png": special(tarfile.CHRTYPE)}
    path = write_tar(tmp_path / "a.tar", files)
    with pytest.raises(PrepareError, match=r"^b\.png in .*a\.tar is a link, which is not followed: .*--skip-unr"):
        prepare(path, tmp_path / "out", small())
    assert prepare(path, tmp_path / "out", small(skip_unreadable=True)).skipped == ("b.png",)
    hard = write_tar(tmp_path / "b.tar", {**images, "b.png": link("b.png", "00.png", tarfile.LNKTYPE)})
    with pytest.raises(ImageError, match="is a link, which is not followed"):
        open_source(str(hard)).read(1)


def test_samples_without_image(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"a.cls": b"0", "b.cls": b"1", "b.png": pngs(1)["00.png"]})
    with pytest.raises(PrepareError, match=r"^a in .*a\.tar is a sample without an image, it has cls: "):
        prepare(path, tmp_path / "out", small())
    manifest = prepare(path, tmp_path / "out", small(skip_unreadable=True))
    assert manifest.skipped == ("a",) and manifest.samples == 1


def test_cut_while_it_is_read(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pngs(3))
    source = open_source(str(path))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ImageError, match=r"is cut short \(188 of \d+ bytes\): .*a\.tar has changed"):
        source.read(0)


def test_damage_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", pngs(3))
    path.write_bytes(path.read_bytes()[:2048])
    with pytest.raises(PrepareError, match=r"a\.tar is a damaged tar at offset 2048 \(") as error:
        prepare(path, tmp_path / "out", small())
    assert "\n" not in str(error.value) and not (tmp_path / "out.partial").exists()
