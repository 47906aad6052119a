"""The plain model behind LitServe's batching. Pictures come in base64, as JSON."""

from __future__ import annotations

import base64
import os

import litserve
from http_servers import Model, decoded
from PIL import Image


class Api(litserve.LitAPI):
    """The four steps of a request."""

    def setup(self, device: str) -> None:
        self.captioner = Model()

    def decode_request(self, request: dict[str, str]) -> Image.Image:
        return decoded(base64.b64decode(request["image"]))

    def predict(self, x: list[Image.Image]) -> list[str]:
        return self.captioner.caption(x)

    def encode_response(self, output: str) -> dict[str, str]:
        return {"caption": output}


if __name__ == "__main__":
    api = Api(max_batch_size=int(os.environ["BENCHMARK_BATCH"]), batch_timeout=0.02)
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(port=int(os.environ["BENCHMARK_PORT"]), generate_client_file=False)
