"""What ``http_load.py`` compares with: a plain Flask view. LitServe is in ``http_litserve.py``."""

from __future__ import annotations

import io
import os
import threading
from typing import Any

import torch
from PIL import Image
from transformers import AutoProcessor, BlipForConditionalGeneration


class Model:
    """``generate()`` in fp32, as the model card of a BLIP checkpoint shows it."""

    def __init__(self) -> None:
        folder = os.environ["BENCHMARK_CHECKPOINT"]
        self.processor = AutoProcessor.from_pretrained(folder, backend="pil")
        self.model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()
        self.lock = threading.Lock()

    def caption(self, images: list[Image.Image]) -> list[str]:
        inputs = self.processor(images=images, return_tensors="pt")
        with self.lock, torch.inference_mode():
            tokens = self.model.generate(
                **inputs,
                num_beams=1,
                do_sample=False,
                no_repeat_ngram_size=3,
                max_new_tokens=int(os.environ["BENCHMARK_TOKENS"]),
            )
        return list(self.processor.batch_decode(tokens, skip_special_tokens=True))


def decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def plain() -> Any:
    """What most captioning apps are: load, lock, generate."""
    from flask import Flask, request

    app, model = Flask(__name__), Model()

    @app.post("/predict")
    def predict() -> str:
        return model.caption([decoded(request.get_data())])[0]

    app.add_url_rule("/health", view_func=lambda: "ok")
    return app
