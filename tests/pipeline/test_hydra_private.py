"""What `hydra_private` takes from Hydra is still there, and means what it meant."""

from hydra.core.utils import JobReturn, JobStatus

from stages.pipeline.hydra_private import job_error, split_jobs


def test_a_multirun_is_split_into_every_combination() -> None:
    jobs, swept = split_jobs(["pair=mask,plain", "++pair.train.lr=1e-4", "part=range(0,2)"])
    assert swept == {"pair", "part"}
    assert jobs == [[f"pair={pair}", "++pair.train.lr=0.0001", f"part={part}"]
                    for pair in ("mask", "plain") for part in (0, 1)]  # fmt: skip


def test_a_job_keeps_what_ended_it() -> None:
    failed = JobReturn(status=JobStatus.FAILED)
    failed.return_value = ValueError("planted")
    assert isinstance(job_error(failed), ValueError)
    done = JobReturn(status=JobStatus.COMPLETED)
    done.return_value = 0.5
    assert job_error(done) is None
