"""Image files: for training from folders, and for predict at a network's input size."""

import os
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from gpucnn.data import Mapped, load, load_images
from gpucnn.data.images import white_of
from gpucnn.errors import DataError
from tests.data.png import png

GREY = np.random.default_rng(3).integers(0, 256, (6, 5), dtype=np.uint8)
RGB = np.random.default_rng(4).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def write(file, array, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(file, **options)
    return file


def test_grey_file_as_it_is(tmp_path):
    images, files, notes = load_images(write(tmp_path / "a.png", GREY), (1, 6, 5))
    assert np.array_equal(images, (GREY.astype(np.float32) / np.float32(255))[None, None])
    assert images.dtype == np.float32
    assert files == [tmp_path / "a.png"]
    assert notes == []


def test_rgb_file_as_it_is_and_grey_to_rgb(tmp_path):
    images, _, _ = load_images(write(tmp_path / "a.png", RGB), (3, 6, 5))
    assert np.array_equal(images[0], RGB.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    images, _, _ = load_images(write(tmp_path / "b.png", GREY), (3, 6, 5))
    assert np.array_equal(images[0], np.stack([GREY] * 3).astype(np.float32) / np.float32(255))


def test_colour_to_grey_is_luma(tmp_path):
    images, _, _ = load_images(write(tmp_path / "a.png", RGB), (1, 6, 5))
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(images[0, 0] * 255 - luma).max() <= 1  # Pillow works in integers


def test_whole_enlargement_repeats_pixels(tmp_path):
    images, _, notes = load_images(write(tmp_path / "a.png", GREY[:4, :4]), (1, 32, 32))
    assert np.array_equal(images[0, 0], GREY[:4, :4].repeat(8, 0).repeat(8, 1).astype(np.float32) / np.float32(255))
    assert notes == ["resized from 4x4 to 32x32 pixels, each pixel repeated"]


def test_other_sizes_are_stretched_and_said_so(tmp_path):
    write(tmp_path / "a.png", np.full((7, 9), 51, np.uint8))
    write(tmp_path / "b.jpg", np.full((64, 64), 51, np.uint8))
    images, files, notes = load_images(tmp_path, (1, 32, 32))
    assert [file.name for file in files] == ["a.png", "b.jpg"]
    assert np.abs(images - 0.2).max() < 1e-6
    assert notes == [
        "resized from 9x7 to 32x32 pixels, bilinearly",
        "resized from 64x64 to 32x32 pixels, bilinearly",
    ]


def test_white_is_that_of_the_training_images(tmp_path):
    images = np.random.default_rng(6).integers(0, 256, (4, 1, 6, 5)).astype(np.float32)
    images[0], images[1] = 0, 255
    assert white_of(images) == white_of(Mapped(images)) == 255
    assert white_of(images / 255) == white_of(images[:1]) == white_of(images / 250 - 0.01) == 1
    for other in (images + 0.5, images - 1, images + 1, images // 2 / 127 - 0.5, images // 16):
        with pytest.raises(DataError, match="store them as uint8"):
            white_of(other)
    found, _, _ = load_images(write(tmp_path / "a.png", GREY), (1, 6, 5), white=255)
    assert np.array_equal(found[0, 0], GREY)


def test_exif_orientation_is_obeyed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    images, _, _ = load_images(write(tmp_path / "a.png", GREY, exif=exif), (1, 5, 6))
    assert np.array_equal(images[0, 0] * 255, np.rot90(GREY, -1))


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path):
    alpha = np.dstack([RGB, np.full((6, 5), 255, np.uint8)])
    images, _, _ = load_images(write(tmp_path / "a.png", alpha), (3, 6, 5))
    assert np.array_equal(images[0], RGB.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    alpha[0, 0, 3] = 254
    with pytest.raises(DataError, match="partly transparent"):
        load_images(write(tmp_path / "b.png", alpha), (3, 6, 5))


def test_refused_files(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(DataError, match="cannot read .*text.png as a PNG, JPEG, WebP, BMP, TIFF or GIF image"):
        load_images(tmp_path / "text.png", (1, 6, 5))
    with pytest.raises(DataError, match="does not exist"):
        load_images(tmp_path / "none.png", (1, 6, 5))
    with pytest.raises(DataError, match="more than 8 bits"):
        load_images(write(tmp_path / "deep.png", GREY.astype(np.uint16) * 257), (1, 6, 5))
    # Of colours Pillow keeps the upper 8 bits and says nothing: 12 bits of a microscope would be 16 shades.
    for kind, channels in ((2, 3), (4, 2), (6, 4)):
        lines = (b"\0" + np.full((5, channels), 0xFFFF, ">u2").tobytes()) * 6  # opaque
        (tmp_path / "colour.png").write_bytes(png(5, 6, zlib.compress(lines), bits=16, kind=kind))
        with pytest.raises(DataError, match=r"more than 8 bits a channel \(mode \w+;16B\); save it with 8 bits, or"):
            load_images(tmp_path / "colour.png", (1, 6, 5))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no PNG, JPEG, "):
        load_images(tmp_path / "empty", (1, 6, 5))
    with pytest.raises(DataError, match="takes 2 channels"):
        load_images(tmp_path / "deep.png", (2, 6, 5))
    with pytest.raises(DataError, match="a.tga as a PNG, JPEG"):
        load_images(write(tmp_path / "a.tga", GREY), (1, 6, 5))
    for ending in ("gif", "tiff", "webp"):
        pages = {"save_all": True, "append_images": [Image.fromarray(RGB[::-1])]}
        with pytest.raises(DataError, match=f"a.{ending} holds 2 images, of an animation or pages; save the one"):
            load_images(write(tmp_path / f"a.{ending}", RGB, **pages), (3, 6, 5))


@pytest.mark.parametrize("ending", ["webp", "bmp", "tif", "tiff", "gif"])
def test_other_formats(tmp_path, ending):
    images, _, _ = load_images(write(tmp_path / f"a.{ending}", GREY, lossless=True), (1, 6, 5))
    assert np.array_equal(images[0, 0], GREY / np.float32(255))


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9])
def test_cut_short(tmp_path, ending, keep):
    picture = np.random.default_rng(5).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    file = write(tmp_path / f"a.{ending}", picture)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(DataError, match=f"a.{ending}"):
        load_images(file, (3, 40, 40))


def fill(folder, counts, array=GREY):
    for name, count in counts.items():
        for i in range(count):
            write(folder / name / f"{i:03d}.png", array)


def test_folders_counted_through(tmp_path):
    fill(tmp_path, {"bee": 3, "ant": 4})
    (tmp_path / "ant" / "notes.txt").write_text("ignored")
    write(tmp_path / "ant" / "000.png", GREY + 1)
    (tmp_path / "ant" / "003.png").rename(tmp_path / "ant" / "003.webp")  # what is in a file counts
    train, test = load(tmp_path)
    assert train.classes == ["ant", "bee"]
    assert train.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert test.labels.tolist() == [1]
    assert np.array_equal(train.images[0, 0], (GREY + 1).astype(np.float32) / np.float32(255))


def test_folders_with_their_own_test_part(tmp_path):
    fill(tmp_path / "train", {"ant": 2, "bee": 1})
    fill(tmp_path / "test", {"ant": 1, "bee": 1})
    train, test = load(tmp_path)
    assert (len(train.images), len(test.images)) == (3, 2)
    write(tmp_path / "test" / "bee" / "colour.png", RGB)
    train, test = load(tmp_path)
    assert train.images.shape == (3, 3, 6, 5)
    assert test.images.shape == (3, 3, 6, 5)


def test_images_beside_the_folders_of_classes_are_not_left_out(tmp_path):
    fill(tmp_path, {"ant": 5, "bee": 4})
    load(tmp_path)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "ant" / "000.png").rename(tmp_path / "000.png")
    with pytest.raises(DataError, match="000.png would be left out, as all images that lie beside the folders"):
        load(tmp_path)


def test_what_macos_puts_into_zip_archives_is_no_class(tmp_path):
    fill(tmp_path, {"ant": 5, "bee": 4})
    for folder in (tmp_path / "ant", tmp_path / "__MACOSX" / "ant"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "._000.png").write_bytes(b"\0\x05\x16\x07")
    train, test = load(tmp_path)
    assert train.classes == ["ant", "bee"] and len(train.images) + len(test.images) == 9


def test_folders_refused(tmp_path):
    fill(tmp_path / "train", {"ant": 2, "bee": 1, "cat": 1})
    with pytest.raises(DataError, match="test is missing; give .*train, of which every fifth image is for testing"):
        load(tmp_path)
    fill(tmp_path, {"test": 2})  # images without labels, as competitions have them
    with pytest.raises(DataError, match="test holds no folder of images for each class; give .*train, of which"):
        load(tmp_path)
    shutil.rmtree(tmp_path / "test")
    fill(tmp_path / "test", {"ant": 1})
    with pytest.raises(DataError, match="class bee, cat is in train/ but not in test/"):
        load(tmp_path)
    fill(tmp_path / "test", {"bee": 1, "cat": 1, "dog": 1})
    with pytest.raises(DataError, match="class dog is in test/ but not in train/"):
        load(tmp_path)
    fill(tmp_path / "train", {"dog": 0})
    (tmp_path / "train" / "dog").mkdir()
    with pytest.raises(DataError, match="dog: holds no PNG, JPEG, "):
        load(tmp_path)
    fill(tmp_path / "train", {"dog": 1}, GREY.T)
    with pytest.raises(DataError, match="000.png is 6x5 pixels, .* is 5x6; training images must have one size"):
        load(tmp_path)


def test_an_image_of_a_format_that_cannot_be_read_is_not_left_out(tmp_path):
    fill(tmp_path, {"ant": 5, "bee": 4})
    (tmp_path / "bee" / "004.HEIC").write_bytes(b"\0\0\0\x24ftypheic")
    with pytest.raises(DataError, match="cannot read .*004.HEIC as a PNG, JPEG, "):
        load(tmp_path)


def test_images_in_a_folder_of_a_class_are_not_left_out(tmp_path):
    fill(tmp_path, {"ant": 5, "bee": 4})
    fill(tmp_path / "bee", {".thumbnails": 1, "more": 1})
    with pytest.raises(DataError, match="bee/more holds images that would be left out: .*bee is read as a class"):
        load(tmp_path)
    (tmp_path / "bee" / "more" / "000.png").unlink()
    assert len(load(tmp_path)[0].images) == 8
    fill(tmp_path / "upper" / "Train", {"ant": 5, "bee": 4})
    with pytest.raises(DataError, match="Train/ant holds images .* train/ and test/, in small letters"):
        load(tmp_path / "upper")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
@pytest.mark.parametrize("locale", ["C.UTF-8", "C"])
def test_names_of_classes_are_the_same_in_every_locale_and_can_be_written(tmp_path, locale):
    """Folders of another system's archives have names that are no UTF-8."""
    for name in ("ä".encode(), b"\xe4", b"b"):
        (tmp_path / "bytes").mkdir(exist_ok=True)
        os.mkdir(os.path.join(os.fsencode(tmp_path / "bytes"), name))
        for i in range(5):
            write(tmp_path / "bytes" / os.fsdecode(name) / f"{i}.png", GREY)
    code = "import sys; from gpucnn.data import load; print(ascii(load(sys.argv[1])[0].classes))"
    environment = {**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", code, str(tmp_path / "bytes")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == f"{['b', 'ä', chr(92) + 'xe4']!a}\n", run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' names are Unicode")
def test_two_names_that_are_written_alike_are_refused(tmp_path):
    fill(tmp_path, {"ant": 5, "\\xe4": 4, os.fsdecode(b"\xe4"): 4})
    with pytest.raises(DataError, match="two folders stand for a class"):
        load(tmp_path)


def test_folder_without_classes(tmp_path):
    with pytest.raises(DataError, match="0 folders inside"):
        load(tmp_path)


def test_class_whose_images_are_all_for_testing(tmp_path):
    fill(tmp_path, {"ant": 4, "bee": 1, "cat": 2})
    train, test = load(tmp_path)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 0, 0, 0, 1, 2], [2])
    fill(tmp_path, {"dog": 1})
    (tmp_path / "cat" / "001.png").unlink()
    with pytest.raises(DataError, match="7 images; at least 5 are needed, of classes with more than one image"):
        load(tmp_path)
