"""Where an answer helps most: the pictures that the current version is least sure of.

This is uncertainty sampling (Lewis and Gale 1994) with the probability of the whole caption.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from captionapp.errors import QueueFull

if TYPE_CHECKING:
    from captionapp.caption_records import CaptionRecord
    from captionapp.workflow import Workflow


def least_sure(workflow: Workflow) -> list[CaptionRecord]:
    """The captions that the current version made by itself of stored pictures that nobody has
    answered, the least probable first.

    Raises:
        ModelUnavailable: if it cannot be told which version is current.
    """
    answered = workflow.feedback.image_ids()
    captions = workflow.captions.newest(workflow.versions.current().name)
    return [caption for caption in captions if caption.image_id not in answered]


def undescribed(workflow: Workflow) -> list[str]:
    """Stored pictures that nobody has answered and the current version has not described yet.

    Raises:
        ModelUnavailable: if it cannot be told which version is current.
    """
    done = workflow.feedback.image_ids()
    current = workflow.versions.current().name
    done |= {caption.image_id for caption in workflow.captions.newest(current)}
    return [image_id for image_id in workflow.records.picture_ids() if image_id not in done]


def describe(workflow: Workflow, most: int) -> int:
    """Have the current version describe up to ``most`` of those; returns how many were queued.

    Raises:
        ModelUnavailable, QueueFull: none could be.
    """
    chosen = undescribed(workflow)[:most]
    workflow.jobs.have_model()
    options = workflow.settings.decode_options()
    queued = 0
    for image_id in chosen:  # one by one: what people upload meanwhile has its place as well
        try:
            with workflow.queue.reserve(1) as reservation:
                workflow.jobs.start(image_id, options, reservation)
        except QueueFull:
            if not queued:
                raise
            break
        queued += 1
    return queued
