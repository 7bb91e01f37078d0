"""What slows a training down is told once, with its step and the right advice."""

from __future__ import annotations

from dataclasses import replace

from oleaster.training.bottlenecks import IdleCoresWatch, StarvationWatch, SwapWatch
from oleaster.training.reports import StepReport

GOOD = StepReport(2, 100, 0.1, 1.0, 1e-3, 1.0, 10, 20, 4, 2.0, 500.0, 500.0, 390.0, None, 400.0, 0.0, 0.01)


def test_waiting_threads_are_named_after_three_reports_in_a_row() -> None:
    watch = IdleCoresWatch(threads=4)
    slow = replace(GOOD, cpu_percent=100.0, machine_cpu_percent=120.0)
    said = [watch.update(report) for report in (slow, slow, GOOD, slow, slow, slow, slow)]
    assert [notice is not None for notice in said] == [False] * 5 + [True, False]
    assert said[5] is not None
    assert "1.0 of 4 threads" in said[5].text
    assert "per_device_train_batch_size" in said[5].text


def test_other_programs_are_the_reason_where_they_use_the_cores() -> None:
    watch = IdleCoresWatch(threads=4)
    slow = replace(GOOD, cpu_percent=100.0, machine_cpu_percent=400.0)
    (notice,) = filter(None, [watch.update(slow) for _ in range(5)])
    assert "other programs use 3.0 cores" in notice.text


def test_short_reports_the_first_step_and_a_gpu_do_not_count() -> None:
    slow = replace(GOOD, cpu_percent=10.0)
    for harmless in (replace(slow, seconds=0.2), replace(slow, step=1), replace(slow, gpu_memory_mb=100.0)):
        watch = IdleCoresWatch(threads=4)
        assert not any(watch.update(harmless) for _ in range(5))


def test_a_model_that_waits_for_rows_is_named() -> None:
    watch = StarvationWatch()
    hungry = replace(GOOD, preparing_seconds=0.8)
    (notice,) = filter(None, [watch.update(report) for report in (GOOD, hungry, hungry, hungry, hungry)])
    assert notice.kind == "data_starvation"
    assert "40%" in notice.text


def test_swapping_is_named_once() -> None:
    watch = SwapWatch()
    said = [watch.update(replace(GOOD, swap_mb=mb)) for mb in (0.0, 30.0, 900.0, 950.0)]
    assert [notice is not None for notice in said] == [False, False, True, False]
    assert said[2] is not None
    assert "900 MB" in said[2].text
