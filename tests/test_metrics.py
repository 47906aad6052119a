from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from captionapp.metrics import Metrics


def values(text: str) -> dict[str, float]:
    """Samples by name and labels, as they are written."""
    lines = re.findall(r"^([a-z_]+(?:\{.*\})?) ([0-9.e+-]+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


def rendered(metrics: Metrics) -> dict[str, float]:
    return values(metrics.render()[0].decode())


def test_what_happens_is_counted() -> None:
    metrics = Metrics()
    metrics.request("/captions", "POST", 303, 0.3)
    metrics.caption_made("shipped-1", 0.7)
    metrics.caption_made("shipped-1", 0.9)
    metrics.cache_hit()
    metrics.failure("TooLarge")
    metrics.feedback_given("corrected")
    metrics.picture_stored()
    metrics.queue_depth(3)
    metrics.batch_begun(8)
    metrics.step("prepare", 0.02)
    seen = rendered(metrics)
    route = '{method="POST",route="/captions"'
    assert seen[f'captionapp_requests_total{route},status="303"}}'] == 1
    assert seen[f'captionapp_request_seconds_bucket{{le="0.25",{route[1:]}}}'] == 0
    assert seen[f'captionapp_request_seconds_bucket{{le="0.5",{route[1:]}}}'] == 1
    assert seen['captionapp_captions_total{version="shipped-1"}'] == 2
    assert seen['captionapp_caption_seconds_sum{version="shipped-1"}'] == pytest.approx(1.6)
    assert seen["captionapp_caption_cache_hits_total"] == 1
    assert seen['captionapp_errors_total{kind="TooLarge"}'] == 1
    assert seen['captionapp_feedback_total{verdict="corrected"}'] == 1
    assert seen["captionapp_pictures_total"] == 1
    assert seen["captionapp_queue_depth"] == 3
    assert seen["captionapp_batch_size_sum"] == 8
    assert seen['captionapp_step_seconds_bucket{le="0.025",step="prepare"}'] == 1
    assert seen['captionapp_step_seconds_bucket{le="0.01",step="prepare"}'] == 0


def test_two_applications_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.picture_stored()
    assert rendered(first)["captionapp_pictures_total"] == 1
    assert rendered(second)["captionapp_pictures_total"] == 0


def test_a_load_is_counted_and_so_is_its_failure() -> None:
    metrics = Metrics()
    with metrics.model_load("v1"):
        pass
    with pytest.raises(OSError), metrics.model_load("v2"):
        raise OSError
    seen = rendered(metrics)
    assert seen['captionapp_model_loads_total{version="v1"}'] == 1
    assert 'captionapp_model_loads_total{version="v2"}' not in seen
    assert seen['captionapp_errors_total{kind="model_load"}'] == 1
    assert seen["captionapp_model_loaded"] == 1


def test_invented_methods_make_no_new_series() -> None:
    metrics = Metrics()
    metrics.request("/", "BREW", 405, 0.1)
    assert 'captionapp_requests_total{method="other",route="/",status="405"}' in rendered(metrics)


@pytest.mark.parametrize(
    ("accept", "begins"),
    [
        ("", "text/plain"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics"),
    ],
)
def test_the_format_is_the_one_asked_for(accept: str, begins: str) -> None:
    text, content_type = Metrics().render(accept)
    assert content_type.startswith(begins)
    assert text.endswith(b"# EOF\n") == (accept != "")


def test_processes_that_share_a_folder_add_up(tmp_path: Path) -> None:
    program = (
        "from captionapp.metrics import Metrics\n"
        "metrics = Metrics()\n"
        "metrics.caption_made('v1', 0.5)\n"
        "metrics.queue_depth(2)\n"
        "print(metrics.render()[0].decode())"
    )
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        )
    seen = values(done.stdout)
    assert seen['captionapp_captions_total{version="v1"}'] == 2
    assert seen['captionapp_caption_seconds_sum{version="v1"}'] == 1
    assert seen["captionapp_queue_depth"] == 4
