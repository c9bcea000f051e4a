"""Token buckets: so many at once, then so many a minute, in bounded memory."""

from oracle import ratelimit
from oracle.ratelimit import RateLimit


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
    monkeypatch.setattr(ratelimit, "MAX_CLIENTS", 5)
    for n in range(100):
        limit.wait(str(n))
    assert len(limit._buckets) <= 6
    assert not any(RateLimit(0).wait("a") for _ in range(1000))
