"""The volume cache and the content digest."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import JPEG2000Lossless
from volume_series import NATIVE, enhanced, in_syntax, series, set_all, write, write_all

from dicom_node.refusals import Refused
from dicom_node.volume import CacheDamaged, build_volume, content_digest, load_volume, save_volume

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("padding", [False, True])
def test_a_volume_comes_back_from_its_cache(tmp_path, padding):
    change = set_all(PixelPaddingValue=103) if padding else None
    volume = build_volume(write_all(series(), tmp_path / "s", change))
    save_volume(volume, tmp_path / "v.cache")
    again = load_volume(tmp_path / "v.cache")
    np.testing.assert_array_equal(again.array, volume.array)
    assert isinstance(again.array, np.memmap)
    assert not again.array.flags.writeable
    assert (again.valid is not None) is padding
    if padding:
        np.testing.assert_array_equal(again.valid, volume.valid)
    assert again.affine.close_to(volume.affine, 0)
    for name in ("slices", "study_uid", "series_uid", "frame_of_reference_uid", "modality", "attributes", "notes"):
        assert getattr(again, name) == getattr(volume, name)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "s"] == ["v.cache"]


def test_a_damaged_cache_is_named(tmp_path):
    save_volume(build_volume(write_all(series(), tmp_path / "s")), tmp_path / "v")
    whole = (tmp_path / "v").read_bytes()
    for end in (0, 5, 15, 100, len(whole) - 1):
        (tmp_path / "v").write_bytes(whole[:end])
        with pytest.raises(CacheDamaged):
            load_volume(tmp_path / "v")
    (tmp_path / "v").write_bytes(whole + b"x")
    with pytest.raises(CacheDamaged):
        load_volume(tmp_path / "v")
    (tmp_path / "v").write_bytes(b"\x80\x04" + whole[2:])
    with pytest.raises(CacheDamaged):
        load_volume(tmp_path / "v")
    with pytest.raises(FileNotFoundError):
        load_volume(tmp_path / "none")


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    volume = build_volume(write_all(series(), tmp_path / "s"))
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        save_volume(volume, tmp_path / "v")
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


# -- content digest --------------------------------------------------------------------------------------------------


def rich() -> Dataset:
    ds = series(1)[0]
    item = Dataset()
    item.ReferencedSOPInstanceUID = "1.2.3"
    inner = Dataset()
    inner.CodeValue = "odd"
    item.PurposeOfReferenceCodeSequence = DicomSequence([inner])
    ds.ReferencedImageSequence = DicomSequence([item, copy.deepcopy(item)])
    block = ds.private_block(0x0011, "TEST", create=True)
    block.add_new(1, "LO", "odd length")
    block.add_new(2, "OB", b"\1\2\3\4")
    return ds


def digest(ds, tmp_path):
    return content_digest(write(ds, tmp_path / "d.dcm"))


def test_the_encoding_is_no_content(tmp_path):
    ds = rich()
    digests = {digest(in_syntax(ds, syntax), tmp_path) for syntax in NATIVE}
    for undefined in (True, False):
        other = copy.deepcopy(ds)
        other["ReferencedImageSequence"].is_undefined_length = undefined
        for item in other.ReferencedImageSequence:
            item.is_undefined_length_sequence_item = undefined
        digests.add(digest(other, tmp_path))
    padded = copy.deepcopy(ds)
    padded.add_new(0xFFFCFFFC, "OB", bytes(100))
    digests.add(digest(padded, tmp_path))
    padded = copy.deepcopy(ds)
    padded.PatientID = "T-1   "
    digests.add(digest(padded, tmp_path))
    other_preamble = tmp_path / "p.dcm"
    data = write(ds, tmp_path / "d.dcm").read_bytes()
    other_preamble.write_bytes(b"II*\0" + data[4:])
    digests.add(content_digest(other_preamble))
    assert len(digests) == 1


def one_pixel(ds):
    ds.PixelData = b"\7" + ds.PixelData[1:]


def moved_item(ds):
    first, second = ds.ReferencedImageSequence
    second.PurposeOfReferenceCodeSequence.append(first.PurposeOfReferenceCodeSequence.pop())


@pytest.mark.parametrize(
    "change",
    [
        one_pixel,
        moved_item,
        lambda ds: setattr(ds, "PatientID", "T-2"),
        lambda ds: setattr(ds, "PatientID", " T-1"),
        lambda ds: delattr(ds, "EchoTime"),
        lambda ds: setattr(ds, "PixelPaddingValue", 0),
        lambda ds: ds.ReferencedImageSequence.pop(),
        lambda ds: setattr(ds[0x00111001], "value", "other length"),
        lambda ds: setattr(ds[0x00111002], "value", b"\1\2\3\0"),
    ],
)
def test_any_content_counts(tmp_path, change):
    ds = rich()
    before = digest(ds, tmp_path)
    change(ds)
    assert digest(ds, tmp_path) != before


def test_the_offset_table_is_no_content_but_the_fragments_are(tmp_path):
    from pydicom.encaps import encapsulate, generate_frames

    ds = enhanced(series())
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    frames = list(generate_frames(ds.PixelData, number_of_frames=6))
    found = []
    for options in ({"has_bot": True}, {"has_bot": False}, {"fragments_per_frame": 2}):
        ds.PixelData = encapsulate(frames, **options)
        ds["PixelData"].VR = "OB"
        found.append(digest(ds, tmp_path))
    assert found[0] == found[1] != found[2]


def test_digest_of_a_slice_is_fast_and_of_a_cut_file_refused(tmp_path):
    path = write(series(1, rows=512, columns=512)[0], tmp_path / "a.dcm")
    content_digest(path)
    started = time.perf_counter()
    for _ in range(10):
        content_digest(path)
    assert (time.perf_counter() - started) / 10 < 0.05  # about 2 ms on a quiet machine
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(Refused):
        content_digest(path)
