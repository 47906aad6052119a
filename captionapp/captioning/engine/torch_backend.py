"""BLIP's forward passes on torch, written out: the engine that always works.

The weights are those of ``BlipForConditionalGeneration``; the arithmetic is the same, in another
arrangement: fused projections, fused attention, weights laid out once for the processor's
matrix multiplication, and keys and values kept from step to step. Shapes below: n pictures, r rows
(beams of all pictures), t tokens, h heads, s patches + 1, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import layer_norm, linear, scaled_dot_product_attention
from transformers.activations import ACT2FN

#: A KV cache grows by so many places at a time.
_GROWTH = 16


class TorchBackend:
    """A checkpoint ready to caption, in ``dtype``. It does not keep the model it is made of."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        text, vision = model.text_decoder, model.vision_model
        self.vision = _Vision(vision, dtype)
        self.embeddings = _Embeddings(text.bert.embeddings, dtype)
        self.layers = [_TextLayer(layer, dtype) for layer in text.bert.encoder.layer]
        self.head = _Head(text.cls.predictions, dtype, text.config.hidden_act)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (n, 3, height, width), float32, to the encoder's states (n, s, width)."""
        return self.vision(pixels)

    def begin(self, states: torch.Tensor) -> TorchDecoding:
        """Captions of the pictures with these states, one row each until ``select`` says other."""
        return TorchDecoding(self, states)


class TorchDecoding:
    """Captions being written; see ``decode.Decoding``."""

    def __init__(self, backend: TorchBackend, states: torch.Tensor) -> None:
        self._backend = backend
        self._cross = [layer.cross_keys_values(states) for layer in backend.layers]
        self._cache = _Cache(len(backend.layers))

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """See ``decode.Decoding``."""
        x = self._backend.embeddings(tokens, self._cache.length)
        for i, layer in enumerate(self._backend.layers):
            x = layer(x, i, self._cache, self._cross[i])
        self._cache.length += tokens.shape[1]
        return self._backend.head(x[:, -1])

    def select(self, rows: torch.Tensor, pictures: torch.Tensor) -> None:
        """See ``decode.Decoding``."""
        self._cache.select(rows)
        if len(pictures) < len(self._cross[0][0]):
            self._cross = [(k[pictures], v[pictures]) for k, v in self._cross]


class _Cache:
    """Keys and values (r, h, places, d) of the tokens so far, for each layer."""

    def __init__(self, layers: int) -> None:
        self.length = 0
        self._kept: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers

    def add(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put those of new tokens (r, h, t, d) behind; all there are now."""
        kept, end = self._kept[layer], self.length + keys.shape[2]
        if kept is None or end > kept[0].shape[2]:
            kept = (self._room(kept and kept[0], keys), self._room(kept and kept[1], values))
            self._kept[layer] = kept
        kept[0][:, :, self.length : end] = keys
        kept[1][:, :, self.length : end] = values
        return kept[0][:, :, :end], kept[1][:, :, :end]

    def _room(self, old: torch.Tensor | None, new: torch.Tensor) -> torch.Tensor:
        r, h, t, d = new.shape
        room = new.new_empty(r, h, self.length + t + _GROWTH, d)
        if old is not None:
            room[:, :, : self.length] = old[:, :, : self.length]
        return room

    def select(self, rows: torch.Tensor) -> None:
        """Go on with these rows."""
        first = self._kept[0]
        assert first is not None
        if len(rows) == len(first[0]) and rows.tolist() == list(range(len(rows))):
            return
        self._kept = [kept and (kept[0][rows], kept[1][rows]) for kept in self._kept]


class _Linear:
    """``activation(x @ weight.T + bias)``, the weights laid out for oneDNN where that is built in:
    MKL is slow on AMD, and a layout made anew in each call costs as much as the product."""

    def __init__(self, *parts: nn.Linear, dtype: torch.dtype, activation: str = "") -> None:
        weight = torch.cat([part.weight.detach() for part in parts]).to(dtype)
        biases = [part.bias.detach() for part in parts if part.bias is not None]
        self._bias = torch.cat(biases).to(dtype) if biases else None
        self._packed = can_pack(dtype)
        self._fused = "gelu" if self._packed and activation == "gelu" else "none"
        self._activation = ACT2FN[activation] if activation and self._fused == "none" else None
        self._weight = weight.contiguous()
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self._packed:
            y = linear(x, self._weight, self._bias)
        else:
            y = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self._bias, self._fused, [], "none"
            )
        return self._activation(y) if self._activation else y


def can_pack(dtype: torch.dtype) -> bool:
    """Whether torch multiplies with weights that oneDNN has laid out (not on every platform)."""
    return bool(
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and (dtype is torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class _Norm:
    """Layer normalisation, in float32 within."""

    def __init__(self, module: nn.LayerNorm, dtype: torch.dtype) -> None:
        self._weight = module.weight.detach().to(dtype)
        self._bias = module.bias.detach().to(dtype)
        self._eps = module.eps

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


class _Vision:
    """The vision transformer: pre-norm layers over patches."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        embeddings = model.embeddings
        self._patch = embeddings.patch_embedding.weight.detach().to(dtype)
        self._patch_bias = embeddings.patch_embedding.bias.detach().to(dtype)
        self._class = embeddings.class_embedding.detach().to(dtype)
        self._positions = embeddings.position_embedding.detach().to(dtype)
        self._layers = [_VisionLayer(layer, dtype) for layer in model.encoder.layers]
        self._norm = _Norm(model.post_layernorm, dtype)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        size = self._patch.shape[-1]
        patches = nn.functional.conv2d(
            pixels.to(self._patch.dtype), self._patch, self._patch_bias, stride=size
        )
        patches = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self._class.expand(len(pixels), -1, -1), patches], 1) + self._positions
        for layer in self._layers:
            x = layer(x)
        return self._norm(x)


class _VisionLayer:
    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._heads = attention.num_heads
        self._norm1, self._norm2 = _Norm(layer.layer_norm1, dtype), _Norm(layer.layer_norm2, dtype)
        self._qkv = _Linear(attention.qkv, dtype=dtype)
        self._out = _Linear(attention.projection, dtype=dtype)
        self._fc1 = _Linear(mlp.fc1, dtype=dtype, activation=mlp.config.hidden_act)
        self._fc2 = _Linear(mlp.fc2, dtype=dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = _heads(self._qkv(self._norm1(x)), 3, self._heads)
        x = x + self._out(_merged(scaled_dot_product_attention(q, k, v)))
        return x + self._fc2(self._fc1(self._norm2(x)))


class _Embeddings:
    def __init__(self, module: Any, dtype: torch.dtype) -> None:
        self._words = module.word_embeddings.weight.detach().to(dtype)
        self._positions = module.position_embeddings.weight.detach().to(dtype)
        self._norm = _Norm(module.LayerNorm, dtype)

    def __call__(self, tokens: torch.Tensor, before: int) -> torch.Tensor:
        positions = self._positions[before : before + tokens.shape[1]]
        return self._norm(self._words[tokens] + positions)


class _TextLayer:
    """BERT's post-norm layer with attention to the tokens before and to the picture."""

    def __init__(self, layer: Any, dtype: torch.dtype) -> None:
        own, cross = layer.attention, layer.crossattention
        self._heads = own.self.num_attention_heads
        self._qkv = _Linear(own.self.query, own.self.key, own.self.value, dtype=dtype)
        self._out = _Linear(own.output.dense, dtype=dtype)
        self._norm1 = _Norm(own.output.LayerNorm, dtype)
        self._cross_q = _Linear(cross.self.query, dtype=dtype)
        self._cross_kv = _Linear(cross.self.key, cross.self.value, dtype=dtype)
        self._cross_out = _Linear(cross.output.dense, dtype=dtype)
        self._norm2 = _Norm(cross.output.LayerNorm, dtype)
        fc1 = layer.intermediate.dense
        self._fc1 = _Linear(fc1, dtype=dtype, activation=layer.config.hidden_act)
        self._fc2 = _Linear(layer.output.dense, dtype=dtype)
        self._norm3 = _Norm(layer.output.LayerNorm, dtype)

    def cross_keys_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the picture offers: (n, h, s, d) each."""
        k, v = _heads(self._cross_kv(states), 2, self._heads)
        return k.contiguous(), v.contiguous()

    def __call__(
        self, x: torch.Tensor, number: int, cache: _Cache, cross: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        q, k, v = _heads(self._qkv(x), 3, self._heads)
        keys, values = cache.add(number, k, v)
        # More than one token comes at the beginning only, when nothing is before them.
        context = scaled_dot_product_attention(q, keys, values, is_causal=x.shape[1] > 1)
        x = self._norm1(x + self._out(_merged(context)))
        context = self._to_picture(self._cross_q(x), *cross)
        x = self._norm2(x + self._cross_out(context))
        return self._norm3(x + self._fc2(self._fc1(x)))

    def _to_picture(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """The rows of a picture ask it together, so that nothing of it is repeated for them."""
        r, t, width = queries.shape
        together = queries.view(len(keys), r // len(keys) * t, width)
        (q,) = _heads(together, 1, self._heads)
        return _merged(scaled_dot_product_attention(q, keys, values)).view(r, t, width)


class _Head:
    """The output layer: logits in float32, for the last position only."""

    def __init__(self, module: Any, dtype: torch.dtype, activation: str) -> None:
        transform = module.transform
        self._dense = _Linear(transform.dense, dtype=dtype, activation=activation)
        self._norm = _Norm(transform.LayerNorm, dtype)
        self._decoder = _Linear(module.decoder, dtype=dtype)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self._decoder(self._norm(self._dense(x))).float()


def _heads(x: torch.Tensor, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
    """(n, t, parts x h x d) to that many of (n, h, t, d)."""
    n, t, width = x.shape
    return x.view(n, t, parts, heads, width // parts // heads).permute(2, 0, 3, 1, 4).unbind(0)


def _merged(x: torch.Tensor) -> torch.Tensor:
    """(n, h, t, d) to (n, t, h x d)."""
    return x.transpose(1, 2).flatten(2)
