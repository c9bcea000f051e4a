"""What is stored stays stored, whatever happens. Run: pytest tests/test_rawstore.py"""

import gzip
import os
import shutil
from pathlib import Path

import pytest

from oracle.rawstore import RawStore
from tests.crawling import fill, page, request


def forget_ledger(folder: Path) -> None:
    for name in folder.glob("ledger*"):
        name.unlink()


def test_pages_come_back_whole_and_in_the_order_of_their_keys(tmp_path: Path):
    fill(tmp_path, [3, 1, 2])
    with RawStore(tmp_path) as store:
        assert list(store.pages()) == [page(1), page(2), page(3)]
        assert list(store.pages("story/002")) == [page(2)]
        assert list(store.pages(states=["gone"])) == []
    assert gzip.decompress((tmp_path / "pages/2018-03.gz").read_bytes()).count("σελίδα".encode()) == 3


def test_a_crash_at_any_byte_loses_nothing_and_doubles_nothing(tmp_path: Path):
    """The last record is on the disk in part or whole, and the ledger does not know of it."""
    whole = tmp_path / "whole"
    fill(whole, [1, 2])
    before = (whole / "pages/2018-03.gz").stat().st_size
    shutil.copytree(whole, tmp_path / "known")
    with RawStore(whole, write=True) as store:
        store.add([request(3)])
        store.store(request(3), page(3))
    archive = (whole / "pages/2018-03.gz").read_bytes()
    for end in sorted({*range(before, len(archive), 6), before + 1, len(archive) - 1, len(archive)}):
        folder = tmp_path / f"crash-{end}"
        shutil.copytree(tmp_path / "known", folder)
        (folder / "pages/2018-03.gz").write_bytes(archive[:end])
        with RawStore(folder, write=True) as store:
            expected = [page(1), page(2)] + [page(3)] * (end == len(archive))
            assert list(store.pages()) == expected and not store.warnings
            store.store(request(4), page(4))
            assert list(store.pages()) == [*expected, page(4)]
        if end % 4 == 0:  # and the archive by itself tells the same
            forget_ledger(folder)
            with RawStore(folder, write=True) as store:
                assert list(store.pages()) == [*expected, page(4)] and not store.warnings
        shutil.rmtree(folder)


def test_a_lost_ledger_is_rebuilt_from_the_archives(tmp_path: Path):
    fill(tmp_path, [1, 2, 3])
    forget_ledger(tmp_path)
    with RawStore(tmp_path, write=True) as store:
        assert list(store.pages()) == [page(1), page(2), page(3)]
        assert store.next("", "9") == request(1)  # each awaits its verdict again, and none is fetched


def test_damage_is_set_aside_and_said(tmp_path: Path):
    fill(tmp_path, [1, 2, 3])
    archive = tmp_path / "pages/2018-03.gz"
    content = bytearray(archive.read_bytes())
    with RawStore(tmp_path) as store:
        offset = store._db.execute("SELECT offset FROM page WHERE key = 'story/002'").fetchone()[0]
    content[offset + 40] ^= 0xFF
    archive.write_bytes(content)
    with RawStore(tmp_path) as store, pytest.raises(ValueError, match="is damaged at byte"):
        list(store.pages())
    forget_ledger(tmp_path)
    with RawStore(tmp_path, write=True) as store:
        assert list(store.pages()) == [page(1)]
        assert "fetched again" in store.warnings[0]
    assert (tmp_path / f"pages/2018-03.gz.damaged-{offset}").read_bytes() == content[offset:]


def test_a_shortened_archive_is_said_and_its_pages_are_fetched_again(tmp_path: Path):
    fill(tmp_path, [1, 2])
    archive = tmp_path / "pages/2018-03.gz"
    os.truncate(archive, archive.stat().st_size - 5)
    with RawStore(tmp_path, write=True) as store:
        assert "1 pages will be fetched again" in store.warnings[0]
        assert store.next("", "9") == request(2)
        store.store(request(2), page(2))
        assert list(store.pages()) == [page(1), page(2)]


def test_one_writer_and_any_number_of_readers(tmp_path: Path):
    fill(tmp_path, [1])
    with RawStore(tmp_path, write=True), RawStore(tmp_path) as reader:
        assert list(reader.pages()) == [page(1)]
        with pytest.raises(ValueError, match="being written by another run"):
            RawStore(tmp_path, write=True)
    with RawStore(tmp_path, write=True):
        pass


def test_an_empty_folder_is_no_store(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no raw pages"):
        RawStore(tmp_path)


def test_another_day_that_links_to_a_page_asks_for_a_new_verdict(tmp_path: Path):
    fill(tmp_path, [1])
    with RawStore(tmp_path, write=True) as store:
        store.add([request(1)])
        assert store.next("", "9") is None
        store.add([request(1, "2018-03-09")])
        assert store.next("2020-01-01", "9") == request(1)
        assert store.linked_from("story/001") == ["2018-03-02", "2018-03-09"]
