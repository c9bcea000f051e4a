"""Token buckets: so many at once, then so many a minute, in bounded memory."""

import threading

import pytest

from oracle import ratelimit
from oracle.ratelimit import Bucket, RateLimit


def test_a_burst_and_then_the_rate(monkeypatch):
    now = [0.0]
    limit = RateLimit(30, clock=lambda: now[0])
    assert [limit.wait("a") for _ in range(12)] == [0] * 10 + [2] * 2 and limit.wait("b") == 0
    now[0] = 1.9
    assert limit.wait("a") == 1
    now[0] = 2.0
    assert limit.wait("a") == 0 and limit.wait("a") == 2
    now[0] = 1000.0
    assert [limit.wait("a") for _ in range(11)] == [0] * 10 + [2]
    monkeypatch.setattr(ratelimit, "REMEMBERED", 5)
    limit = RateLimit(30)
    for n in range(100):
        limit.wait(str(n))
    assert len(limit._buckets) == 5
    assert not any(RateLimit(0).wait("a") for _ in range(1000))


def test_one_a_minute_is_one_at_once():
    now = [0.0]
    limit = RateLimit(1, clock=lambda: now[0])
    assert (limit.wait("a"), limit.wait("a")) == (0, 60)
    now[0] = 60.0
    assert limit.wait("a") == 0


def test_several_threads_take_no_more_than_there_is():
    limit, passed = RateLimit(300, clock=lambda: 0.0), []
    threads = [threading.Thread(target=lambda: passed.extend(limit.wait("a") for _ in range(100))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert passed.count(0) == 100


def test_a_debt_is_paid_off_and_a_pause_is_kept():
    now = [0.0]
    bucket = Bucket(2, 10, clock=lambda: now[0])
    bucket.take(20)  # what an answer cost is known afterwards
    assert bucket.wait() == pytest.approx(5.5)
    now[0] = 5.5
    assert bucket.wait() == 0 and bucket.wait(100) == pytest.approx(4.5)  # 100 waits for a full bucket
    bucket.pause(30)
    assert bucket.wait() == pytest.approx(30)
    now[0] = 35.5
    assert bucket.wait() == 0
