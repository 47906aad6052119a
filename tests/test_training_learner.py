"""The loss of a step, against the stock model that is given each caption by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainings import CONFIG, drawn, seeing_version

torch = pytest.importorskip("torch")

CAPTIONS = ["a red cat", "a red cat on the beach in snow", "a dog", "a small dog runs on grass"]
CORRECTIONS = 2  # the first of them


def test_the_gradient_of_a_step_is_that_of_the_loss_that_is_promised(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Cross-entropy of corrections, a share of that of rehearsed captions, and KL(starting version
    || this one) on these; captions are of different lengths, so padding would show."""
    from captionapp.training.batches import Batches, View
    from captionapp.training.learner import Learner

    start = seeing_version(checkpoint, tmp_path / "seeing")
    config = replace(
        CONFIG, vision="trained", rehearsal_loss=0.3, output_penalty=4.0, clip=1e9, max_tokens=20
    )
    learner = Learner(config, start)
    torch.manual_seed(1)
    with torch.no_grad():  # or there would be no divergence yet
        for parameter in learner.trained.values():
            parameter.add_(0.05 * torch.randn_like(parameter))
    batches = Batches(config, learner.processor, learner.text_config, None, print)
    pictures = [View(one.path) for one in drawn(tmp_path, "a picture", len(CAPTIONS))]
    batch = batches._batch(pictures, CAPTIONS, CORRECTIONS)
    learner.optimizer.step = learner.optimizer.zero_grad = lambda: None
    correction = learner.learn(batch)

    expected, loss = reference(start.folder, learner, batch.pictures, config)
    assert correction == pytest.approx(expected, 1e-4)
    found = {name: value.grad.clone() for name, value in learner.trained.items()}
    learner.model.zero_grad()
    loss.backward()
    for name, value in learner.trained.items():
        torch.testing.assert_close(found[name], value.grad, atol=1e-5, rtol=1e-3)


def reference(folder: Path, learner: Any, pixels: Any, config: Any) -> tuple[float, Any]:
    """The cross-entropy of the corrections, and the loss, of the learner's model as it is."""
    from transformers import BlipForConditionalGeneration

    start = BlipForConditionalGeneration.from_pretrained(folder).eval()
    entropies: list[list[Any]] = [[], []]  # a token each; of corrections, and of the others
    divergences = []
    for number, caption in enumerate(CAPTIONS):
        text = learner.text_config
        words = learner.processor.tokenizer(caption, add_special_tokens=False).input_ids
        given = {
            "pixel_values": pixels[number : number + 1],
            "input_ids": torch.tensor([[text.bos_token_id, *words]]),
        }
        now = learner.model(**given).logits[0].log_softmax(-1)
        rehearsed = number >= CORRECTIONS
        for place, word in enumerate([*words, text.sep_token_id]):
            entropies[rehearsed].append(-now[place, word])
        if rehearsed:
            with torch.no_grad():
                then = start(**given).logits[0].log_softmax(-1)
            divergences += list((then.exp() * (then - now)).sum(-1))
    correction, rehearsal = (torch.stack(one).mean() for one in entropies)
    divergence = torch.stack(divergences).mean()
    loss = correction + config.rehearsal_loss * rehearsal + config.output_penalty * divergence
    return correction.item(), loss
