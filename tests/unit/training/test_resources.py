import time

from oleaster.training.resources import ResourceMeter


def test_memory_seen_grows_with_what_is_taken() -> None:
    meter = ResourceMeter()
    before = meter()
    taken = bytearray(b"x" * (64 * 1024 * 1024))
    during = meter()
    assert 60 < during.memory_mb - before.memory_mb < 80
    assert during.peak_memory_mb >= during.memory_mb
    del taken
    assert meter().peak_memory_mb >= during.memory_mb - 1


def test_cpu_use_is_that_since_the_reading_before() -> None:
    meter = ResourceMeter()
    begun, end = time.perf_counter(), time.process_time() + 0.2
    while time.process_time() < end:
        pass
    busy = meter().cpu_percent
    share = 100 * 0.2 / (time.perf_counter() - begun)  # of one core: other work may have had the rest
    time.sleep(0.2)
    idle = meter().cpu_percent
    assert 0.6 * share < busy < 1.6 * share
    assert idle < busy
