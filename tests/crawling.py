"""What the tests of fetching, storing and crawling share: made-up pages."""

from collections.abc import Sequence
from pathlib import Path

from oracle.rawstore import Answer, Page, RawStore, Request


def request(number: int, day: str = "2018-03-02") -> Request:
    return Request(f"story/{number:03d}", f"story.do?id={number}", day, 3)


def page(number: int, body: bytes = b"") -> Page:
    body = body or f"<html>σελίδα {number}</html>".encode()
    url = f"https://www.example.org/story.do?id={number}"
    return Page(url, url, 200, {"content-type": "text/html"}, body, "2026-01-02T03:04:05Z", f"story/{number:03d}")


def fill(folder: Path, numbers: Sequence[int]) -> None:
    with RawStore(folder, write=True) as store:
        for number in numbers:
            store.add([request(number)])
            store.store(request(number), page(number))
            store.settle(request(number).key, Answer("ok"))
