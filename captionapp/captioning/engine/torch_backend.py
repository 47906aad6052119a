"""BLIP's forward passes on torch, written out: the engine that always works.

The weights are those of ``BlipForConditionalGeneration``; the arithmetic is the same, in another
arrangement: fused projections, weights laid out once for the processor's matrix multiplication, and
keys and values kept from step to step. ``docs/performance.md`` says what each choice is worth.

Shapes below: n pictures, r rows (beams of all pictures), t tokens, h heads, s patches + 1, d width
of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention

from captionapp.captioning.engine.linear import activations, linear
from captionapp.captioning.engine.precision import Format

#: A KV cache grows by so many places at a time.
_GROWTH = 16
#: So few keys are attended to faster in float32 than in bf16: there is nothing to save.
_FEW_PATCHES = 128
#: So many of the likeliest tokens get their logit in float32, if the output layer's weights are few
#: bits.
_REFINED = 64


class TorchBackend:
    """A checkpoint ready to caption, in a number format, whatever that of ``model`` is. Of the
    model no more is kept than the table of words."""

    def __init__(self, model: Any, form: Format) -> None:
        text, vision = model.text_decoder, model.vision_model
        self.vision = _Vision(vision, form)
        self.embeddings = _Embeddings(text.bert.embeddings, form)
        self.layers = [_TextLayer(layer, form) for layer in text.bert.encoder.layer]
        self.head = _Head(text.cls.predictions, form, text.config.hidden_act)

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

    def look(self, tokens: torch.Tensor) -> torch.Tensor:
        """Append tokens (rows, t) as ``step`` does; how the attention of each is spread over the
        picture's states instead, (rows, t, s), the mean of all layers and heads."""
        weights: list[torch.Tensor] = []
        x = self._backend.embeddings(tokens, self._cache.length)
        for i, layer in enumerate(self._backend.layers):
            x = layer(x, i, self._cache, self._cross[i], weights)
        self._cache.length += tokens.shape[1]
        return torch.stack(weights).mean((0, 2))

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

    def __init__(self, model: Any, form: Format) -> None:
        embeddings, dtype = model.embeddings, activations(form.vision)
        self._patch = embeddings.patch_embedding.weight.detach().to(dtype)
        self._patch_bias = embeddings.patch_embedding.bias.detach().to(dtype)
        self._class = embeddings.class_embedding.detach().to(dtype)
        self._positions = embeddings.position_embedding.detach().to(dtype)
        self._layers = [_VisionLayer(layer, form) for layer in model.encoder.layers]
        self._norm = _Norm(model.post_layernorm, dtype)

    @property
    def patch_size(self) -> int:
        """Pixels of a patch, in both directions."""
        return int(self._patch.shape[-1])

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
    def __init__(self, layer: Any, form: Format) -> None:
        attention, mlp, weights = layer.self_attn, layer.mlp, form.vision
        self._type = form.attention
        self._heads = attention.num_heads
        self._norm1 = _Norm(layer.layer_norm1, activations(weights))
        self._qkv = linear(attention.qkv, weights=weights, many=True)
        self._out = linear(attention.projection, weights=weights, many=True)
        self._norm2 = _Norm(layer.layer_norm2, activations(weights))
        activation = mlp.config.hidden_act
        self._fc1 = linear(mlp.fc1, weights=weights, activation=activation, many=True)
        self._fc2 = linear(mlp.fc2, weights=weights, many=True)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self._qkv(self._norm1(x)).to(self._type)
        context = _merged(_attention(*_heads(qkv, 3, self._heads)))
        x = x + self._out(context.to(x.dtype))
        return x + self._fc2(self._fc1(self._norm2(x)))


class _Embeddings:
    def __init__(self, module: Any, form: Format) -> None:
        dtype = activations(form.text)
        self._words = module.word_embeddings.weight.detach()  # in the type of the file
        self._positions = module.position_embeddings.weight.detach().to(dtype)
        self._norm = _Norm(module.LayerNorm, dtype)

    def __call__(self, tokens: torch.Tensor, before: int) -> torch.Tensor:
        positions = self._positions[before : before + tokens.shape[1]]
        return self._norm(self._words[tokens].to(positions.dtype) + positions)


class _TextLayer:
    """BERT's post-norm layer with attention to the tokens before and to the picture."""

    def __init__(self, layer: Any, form: Format) -> None:
        own, cross, fc1, weights = (
            layer.attention,
            layer.crossattention,
            layer.intermediate.dense,
            form.text,
        )
        self._type = form.attention
        self._heads = own.self.num_attention_heads
        self._qkv = linear(own.self.query, own.self.key, own.self.value, weights=weights)
        self._out = linear(own.output.dense, weights=weights)
        self._norm1 = _Norm(own.output.LayerNorm, activations(weights))
        self._cross_q = linear(cross.self.query, weights=weights)
        self._cross_kv = linear(cross.self.key, cross.self.value, weights=form.vision, many=True)
        self._cross_out = linear(cross.output.dense, weights=weights)
        self._norm2 = _Norm(cross.output.LayerNorm, activations(weights))
        self._fc1 = linear(fc1, weights=weights, activation=layer.config.hidden_act)
        self._fc2 = linear(layer.output.dense, weights=weights)
        self._norm3 = _Norm(layer.output.LayerNorm, activations(weights))

    def cross_keys_values(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the picture offers: (n, h, s, d) each."""
        few = states.shape[1] <= _FEW_PATCHES
        both = self._cross_kv(states).to(torch.float32 if few else self._type)
        k, v = _heads(both, 2, self._heads)
        return k.contiguous(), v.contiguous()

    def __call__(
        self,
        x: torch.Tensor,
        number: int,
        cache: _Cache,
        cross: tuple[torch.Tensor, torch.Tensor],
        weights: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """``weights``, if given, gets those of the attention to the picture, (r, h, t, s)."""
        # So few numbers are attended to faster in float32.
        q, k, v = _heads(self._qkv(x).float(), 3, self._heads)
        keys, values = cache.add(number, k, v)
        # More than one token comes at the beginning only, when nothing is before them.
        context = scaled_dot_product_attention(q, keys, values, is_causal=x.shape[1] > 1)
        x = self._norm1(x + self._out(_merged(context).to(x.dtype)))
        queries = self._cross_q(x)
        context = self._to_picture(queries, *cross)
        if weights is not None:
            (q,) = _heads(queries.float(), 1, self._heads)
            scores = q @ cross[0].float().transpose(-1, -2) * q.shape[-1] ** -0.5
            weights.append(scores.softmax(-1))
        x = self._norm2(x + self._cross_out(context))
        return self._norm3(x + self._fc2(self._fc1(x)))

    def _to_picture(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """The rows of a picture ask it together, so that nothing of it is repeated for them."""
        r, t, width = queries.shape
        together = queries.to(keys.dtype).view(len(keys), r // len(keys) * t, width)
        (q,) = _heads(together, 1, self._heads)
        return _merged(_attention(q, keys, values)).view(r, t, width).to(queries.dtype)


class _Head:
    """The output layer: logits in float32, for the last position only.

    Its weights are the largest matrix of the model, and logits are what tokens are chosen by: so
    all of them are computed from weights in few bits, and the likeliest again from the full ones.
    """

    def __init__(self, module: Any, form: Format, activation: str) -> None:
        transform, decoder = module.transform, module.decoder
        self._dense = linear(transform.dense, weights=torch.float32, activation=activation)
        self._norm = _Norm(transform.LayerNorm, torch.float32)
        self._type = activations(form.head)
        self._rough = linear(decoder, weights=form.head)
        rough = form.head in (torch.bfloat16, torch.int8)
        self._refined = min(_REFINED, decoder.out_features) if rough else 0
        self._weight = decoder.weight.detach()  # the table of words once more, not a copy
        self._bias = decoder.bias.detach().float()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = self._norm(self._dense(x.float()))
        logits = self._rough(x.to(self._type)).float()
        if not self._refined:
            return logits
        likely = logits.topk(self._refined, sorted=False)[1]
        exact = (self._weight[likely].float() @ x[..., None])[..., 0] + self._bias[likely]
        return logits.scatter(-1, likely, exact)


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Of all to all, (n, h, t, d). Plain products in bf16: torch's fused attention computes them
    slower there, and the scores of a picture's patches are small enough to keep."""
    if q.dtype is torch.float32:
        return scaled_dot_product_attention(q, k, v)
    scores: torch.Tensor = (q * float(q.shape[-1] ** -0.5)) @ k.transpose(-1, -2)
    return scores.softmax(-1) @ v


def _heads(x: torch.Tensor, parts: int, heads: int) -> tuple[torch.Tensor, ...]:
    """(n, t, parts x h x d) to that many of (n, h, t, d)."""
    n, t, width = x.shape
    return x.view(n, t, parts, heads, width // parts // heads).permute(2, 0, 3, 1, 4).unbind(0)


def _merged(x: torch.Tensor) -> torch.Tensor:
    """(n, h, t, d) to (n, t, h x d)."""
    return x.transpose(1, 2).flatten(2)
