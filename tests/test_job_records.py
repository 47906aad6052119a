from __future__ import annotations

import pytest

from captionapp.caption_records import CaptionRecords
from captionapp.job_records import JobRecords
from captionapp.records import Records
from tests.recorded import KEY, caption, hold


@pytest.fixture
def jobs(records: Records) -> JobRecords:
    return JobRecords(records)


def test_a_job_is_one_process_s_until_its_lease_is_over(records: Records, jobs: JobRecords) -> None:
    in_another_process = Records(records.path)
    others = JobRecords(in_another_process)
    hold(records, "p1", "anna")
    assert jobs.begin("p1", KEY, 60)
    assert not others.begin("p1", KEY, 60)
    assert not jobs.begin("p1", KEY, 60)
    jobs.extend_leases([("p1", KEY)], -1)
    assert jobs.of(["p1"])["p1", KEY].abandoned
    assert others.begin("p1", KEY, 60)
    jobs.extend_leases([("p1", KEY)], -1)  # it is no longer the owner
    assert not others.of(["p1"])["p1", KEY].abandoned
    in_another_process.close()


def test_a_job_ends_with_its_caption_or_its_problem(records: Records, jobs: JobRecords) -> None:
    hold(records, "p1", "anna")
    jobs.begin("p1", KEY, 60)
    jobs.fail("p1", KEY, "no luck")
    assert jobs.of(["p1"])["p1", KEY].problem == "no luck"
    assert jobs.begin("p1", KEY, 60)
    assert jobs.of(["p1"])["p1", KEY].problem == ""
    CaptionRecords(records).add("p1", caption())
    assert jobs.of(["p1"]) == {}


def test_no_job_for_a_picture_that_is_gone(jobs: JobRecords) -> None:
    assert not jobs.begin("p1", KEY, 60)


def test_only_waiting_jobs_of_this_process_are_taken_each_once(
    records: Records, jobs: JobRecords
) -> None:
    for image_id in ("p1", "p2", "p3"):
        hold(records, image_id, "anna")
    jobs.begin("p1", KEY, 60)
    jobs.begin("p2", KEY, 60)
    jobs.fail("p2", KEY, "no luck")
    JobRecords(records).begin("p3", KEY, 60)  # another process
    names = [(image_id, KEY) for image_id in ("p1", "p2", "p3", "gone")]
    assert jobs.take(names) == {("p1", KEY)}
    assert jobs.of(["p1"])["p1", KEY].ahead is None
    assert jobs.take(names) == set()


def test_leases_are_extended_of_what_is_under_way_and_nothing_else(
    records: Records, jobs: JobRecords
) -> None:
    for image_id in ("p1", "p2"):
        hold(records, image_id, "anna")
        jobs.begin(image_id, KEY, -1)
    jobs.extend_leases([("p1", KEY), ("p1", "{}"), ("gone", KEY)], 60)
    assert [jobs.of([one])[one, KEY].abandoned for one in ("p1", "p2")] == [False, True]
    jobs.extend_leases([], 60)
    assert jobs.of(["p2"])["p2", KEY].abandoned
