"""Splits that folders make, and test splits that are asked for."""

from collections import Counter

import numpy as np
import pytest

from data_pipelines.images.sources import Listing, SourceError, listing_of
from data_pipelines.images.sources.splits import (
    choose_test,
    common_folder,
    doubtful_folders,
    how_many,
    split_by_folders,
)


def split(*names: str) -> tuple[list[str], list[str], list[str], list[str]] | None:
    """Inner names of training images, of test images, of unlabelled ones, and names of those outside."""
    found = split_by_folders(names)
    if found is None:
        return None
    odd = {*found.unlabelled, *found.outside}
    train = [found.inner[i] for i, test in enumerate(found.test) if not test and i not in odd]
    test = [found.inner[i] for i, test in enumerate(found.test) if test]
    return train, test, [found.inner[i] for i in found.unlabelled], [names[i] for i in found.outside]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAINING", "TESTING"),
        ("train", "val"),
        ("training", "valid"),
        ("train", "validation"),
        ("train2017", "val2017"),
        ("train_images", "test_images"),
        ("DIV2K_train_HR", "DIV2K_valid_HR"),
        ("bedroom_train", "bedroom_val"),
        ("Train Set", "Test Set"),
        ("set/train", "set/test"),
        ("a/b/train", "a/b/test"),
        ("train", "test1"),
        ("bottle/train", "bottle/test"),
    ],
)
def test_a_split(train: str, test: str) -> None:
    assert split(f"{train}/cat/1.png", f"{test}/cat/2.png") == (["1.png"], ["2.png"], [], [])
    names = (f"{train}/cat/1.png", f"{train}/dog/2.png", f"{test}/dog/3.png", "preview.png")
    assert split(*names) == (["cat/1.png", "dog/2.png"], ["dog/3.png"], [], ["preview.png"])


@pytest.mark.parametrize(
    "names",
    [
        ("train/1.png", "bus/2.png"),
        ("trainers/1.png", "testimonies/2.png"),
        ("train tracks/1.png", "crash test/2.png"),
        ("train.png", "test.png"),
        ("valley/1.png", "training day/2.png"),
    ],
)
def test_no_split(names: tuple[str, ...]) -> None:
    assert split(*names) is None


def test_three_folders_two_domains_and_unlabelled_images() -> None:
    assert split("train/1.png", "test/2.png", "val/3.png", "unlabeled/4.png") == (
        ["1.png"],
        ["2.png", "3.png"],
        ["4.png"],
        [],
    )
    assert split("trainA/1.png", "trainB/2.png", "testA/3.png", "testB/4.png") == (
        ["1.png", "2.png"],
        ["3.png", "4.png"],
        [],
        [],
    )
    assert split("train/cat/1.png", "unlabeled/2.png") == (["cat/1.png"], [], ["2.png"], [])
    per_class = split("cup/train/1.png", "cup/test/2.png", "nut/train/3.png", "nut/test/4.png")
    assert per_class == (["cup/1.png", "nut/3.png"], ["cup/2.png", "nut/4.png"], [], [])


@pytest.mark.parametrize(
    ("folders", "doubtful"),
    [
        (("cat", "dog", "test"), True),
        (("train_big", "test_small"), True),
        (("bus", "car", "train"), False),
        (("valley", "testimonies"), False),
        (("test",), False),
    ],
)
def test_folders_that_could_be_a_split_or_classes(folders: tuple[str, ...], doubtful: bool) -> None:
    assert bool(doubtful_folders([f"{folder}/0.png" for folder in folders])) == doubtful


def test_common_folder() -> None:
    assert common_folder(["a/b/1.png", "a/b/c/2.png"]) == "a/b/"
    assert common_folder(["ab/1.png", "a/1.png"]) == "" == common_folder(["1.png"]) == common_folder([])


# As many as asked for.


def listing(folders: str, labelled: bool = False) -> Listing:
    """An image for each letter, in the folder of that name."""
    names = [f"{folder}/{i:03d}.png" for i, folder in enumerate(folders)]
    if not labelled:
        return listing_of(names, [1] * len(names))
    classes = tuple(sorted(set(folders)))
    return listing_of(names, [1] * len(names), classes, [classes.index(folder) for folder in folders])


def chosen(source: Listing, test: int | str, unusable: tuple[int, ...] = ()) -> list[str]:
    usable = np.ones(len(source), bool)
    usable[list(unusable)] = False
    mask = choose_test(source, how_many(test, int(usable.sum())), usable)
    assert (mask == choose_test(source, how_many(test, int(usable.sum())), usable)).all()
    return [name for name, taken in zip(source.names, mask, strict=True) if taken]


@pytest.mark.parametrize("folders", ["a" * 60 + "b" * 30 + "c" * 10, "ab" * 45 + "c" * 10, "abcab" * 20])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("test", [1, 3, 10, 33, 99])
def test_number_is_kept_and_spread(folders: str, labelled: bool, test: int) -> None:
    found = Counter(name[0] for name in chosen(listing(folders, labelled), test))
    assert sum(found.values()) == test
    for folder, size in Counter(folders).items():
        assert abs(found[folder] - test * size / 100) <= 1
        assert found[folder] >= (test >= 3)


def test_alternating_classes_are_both_taken() -> None:
    """Evenly spread positions would all be of one class."""
    assert Counter(name[0] for name in chosen(listing("ab" * 50, True), 10)) == {"a": 5, "b": 5}


def test_small_classes_have_one() -> None:
    found = Counter(name[0] for name in chosen(listing("a" * 1000 + "b" * 2 + "c", True), 3))
    assert found == {"a": 2, "b": 1}  # c has but one image


def test_unusable_images_are_not_chosen() -> None:
    found = chosen(listing("a" * 20), 5, unusable=(19, 18, 3))
    assert found == [f"a/{i:03d}.png" for i in (13, 14, 15, 16, 17)]


def test_the_last_ones_of_one_folder_or_of_a_running_number() -> None:
    assert chosen(listing("a" * 20), 2) == ["a/018.png", "a/019.png"]
    names = [f"{i // 5 * 1000:05d}/{i // 5 * 1000 + i % 5:05d}.png" for i in range(15)]
    assert chosen(listing_of(names, [1] * 15), 3) == names[-3:]


def test_shares() -> None:
    assert len(chosen(listing("a" * 300), "10%")) == 30
    assert len(chosen(listing("a" * 300), "0.5%")) == 2
    assert len(chosen(listing("a" * 3), "1%")) == 1


@pytest.mark.parametrize(
    ("test", "message"),
    [(1000, "--test 1000 takes all 300 images.*--test 30 or --test 10%"), ("100%", "takes all 300")],
)
def test_what_is_possible_is_named(test: int | str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        chosen(listing("a" * 300), test)
