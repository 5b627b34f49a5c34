"""The gradient of CLIP's pooled feature in closed form: what a shift of all patches does to their mean.

z is the mean over patches of proj(LN(y_p)), y_p = h_p + MLP(LN2(h_p)), h_p = x_p + O a_p, where a_p is what attention
gives patch p. A shift of A that all patches share is a shift each of their queries, keys and values, and moves a_p by

    values   (1 - A_pc) dv
    keys     s A_pc (a_p - v_c) (q_p . dk)                              per head; A_pj the attention, c the class
    queries  s (sum_j A_pj v_j k_j^T - a_p (sum_j A_pj k_j)^T) dq       token, s the scale of the queries.

Behind the attention, a layer norm's derivative is a matrix that all patches share, over sigma_p, less one of rank one;
the activation's slopes phi'_p alone are each patch's own. So the sum over patches needs no Jacobian of any patch, but
products with P x P attention and P x M slopes, M hidden units, in one of two orders: a few directions of z go back
through the slopes one by one; for many, the attention is summed with the slopes first, at one price for any number.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clip_as_rnn.encoders.attention import read_blocks, split_heads

_TOKENS_AT_ONCE = 1024  # whose sums of slopes are held
_FEW_DIRECTIONS = 24  # up to which it is faster to take them through the slopes one by one


@dataclass(frozen=True, slots=True, eq=False)
class _Linearized:
    """What stands behind the attention, linearized at a block of patches p; M hidden units, n directions of z.

    Attributes:
        weights: 1 / sigma_p, of a shift of h_p that passes the MLP by.
        slopes: phi'_p / (sigma_p sigma2_p), of one that goes through it.
        normed, units: x2_p, LN2(h_p) before gain and bias, and what the hidden units see of it; LN2's rank-one part.
        corrections, features: likewise of the last layer norm, behind h_p and along the directions.
    """

    weights: Float[Tensor, "p 1"]
    slopes: Float[Tensor, "p m"]
    normed: Float[Tensor, "p width"]
    units: Float[Tensor, "p m"]
    corrections: Float[Tensor, "p width"]
    features: Float[Tensor, "p n"]


class _Head:
    """One head's attention from a block of patches p to all tokens t, and how its output a_p moves with the shifts."""

    def __init__(self, query: Float[Tensor, "p e"], keys: Float[Tensor, "t e"], values: Float[Tensor, "t e"]) -> None:
        self.scale = query.shape[1] ** -0.5
        self.query, self.keys, self.values = query, keys, values
        self.attention = torch.softmax(self.scale * query @ keys.T, dim=1)
        self.output = self.attention @ values
        self.mean_key = self.attention @ keys
        on_class = self.attention[:, :1]
        self.on_patches = 1 - on_class
        self.key_pull = self.scale * on_class * (self.output - values[0])

    def project(self, vectors: Float[Tensor, "p e"]) -> Float[Tensor, "3*e p"]:
        """Multiply every patch's derivative of a_p by queries', keys' and values' shifts with that patch's vector."""
        along = (self.attention * (vectors @ self.values.T)) @ self.keys
        by_query = self.scale * (along - self.mean_key * (self.output * vectors).sum(1, keepdim=True))
        by_key = self.query * (self.key_pull * vectors).sum(1, keepdim=True)
        return torch.cat([by_query, by_key, self.on_patches * vectors], dim=1).T

    def sum_weighted(self, weights: Float[Tensor, "p #m"], directions: Float[Tensor, "e m"]) -> Float[Tensor, "3*e m"]:
        """Sum the derivatives of a_p over the patches, each column by its own weights and along its own direction.

        The large products run in the precision of the weights, their sums are float32.
        """
        dtype = weights.dtype
        directions = directions.to(dtype)
        by_query = -_dot(self.mean_key, weights * (self.output.to(dtype) @ directions))
        for start in range(0, len(self.keys), _TOKENS_AT_ONCE):
            some = slice(start, start + _TOKENS_AT_ONCE)
            summed = self.attention[:, some].to(dtype).T @ weights
            by_query += _dot(self.keys[some], summed * (self.values[some].to(dtype) @ directions))
        by_key = _dot(self.query, weights * (self.key_pull.to(dtype) @ directions))
        by_value = directions * (self.on_patches.to(dtype).T @ weights)
        return torch.cat([self.scale * by_query, by_key, by_value.float()])

    def sum_along(self, vectors: Float[Tensor, "p n e"]) -> Float[Tensor, "3*e n"]:
        """Sum the derivatives of a_p over the patches, each multiplied by that patch's own n vectors.

        The products run in the precision of the vectors, their sums are float32.
        """
        dtype, flat = vectors.dtype, vectors.flatten(1)
        gathered = (self.attention.to(dtype).T @ flat).view(len(self.keys), *vectors.shape[1:])  # t n e
        by_token = (gathered @ self.values.to(dtype)[:, :, None])[:, :, 0]
        by_output, by_pull = (vectors @ one.to(dtype)[:, :, None] for one in (self.output, self.key_pull))
        by_query = self.scale * (_dot(self.keys, by_token) - _dot(self.mean_key, by_output[:, :, 0]))
        by_key = _dot(self.query, by_pull[:, :, 0])
        by_value = (self.on_patches.to(dtype).T @ flat).view(vectors.shape[1:]).T
        return torch.cat([by_query, by_key, by_value.float()])


class PooledGradient:
    """Differentiates z along directions with respect to shifts that all patches share, a block of patches at a time.

    In float32, but for the largest products, which run in the model's precision.
    """

    def __init__(self, layer: Any, last_norm: nn.LayerNorm, projection: Float[Tensor, "d width"]) -> None:
        self._layer, self._mlp, self._norm, self._last_norm = layer, layer.mlp, layer.layer_norm2, last_norm
        (self._block,) = read_blocks([layer])
        self._mixing = layer.self_attn.out_proj.weight.float()  # width, heads e
        self._dtype = self._mlp.fc1.weight.dtype
        self._into_units = _center(self._mlp.fc1.weight.float() * self._norm.weight.float()).to(self._dtype)  # m width
        self._after = _center(projection.float() * last_norm.weight.float()).T  # width d

    @torch.no_grad()
    def differentiate(
        self, tokens: Float[Tensor, "1 tokens width"], directions: Float[Tensor, "n d"], rows: int
    ) -> Float[Tensor, "n width"]:
        """Compute mean_p d<direction, z>/dA_p, `rows` patches at a time.

        `tokens` are the input of the block, class token first; A is what its first layer norm makes of the patches.
        """
        attention, patches = self._layer.self_attn, tokens.shape[1] - 1
        heads = [one[0].float() for one in split_heads(self._block, self._block.norm1(tokens))]  # heads tokens e
        after = self._after @ directions.float().T  # width n
        sum_heads = self._sum_by_direction if len(directions) <= _FEW_DIRECTIONS else self._sum_by_unit
        shape = (len(heads[0]), 3, heads[0].shape[2], len(directions))
        moved = torch.zeros(shape, dtype=torch.float32, device=tokens.device)
        for start in range(1, patches + 1, rows):
            some = slice(start, start + rows)
            block = [_Head(query[some], keys, values) for query, keys, values in zip(*heads, strict=True)]
            outputs = torch.cat([head.output for head in block], dim=1)
            moved += sum_heads(block, self._linearize(tokens[0, some].float(), outputs, after), after).view(shape)
        weights = torch.cat([one.weight.float() for one in (attention.q_proj, attention.k_proj, attention.v_proj)])
        return moved.transpose(0, 1).flatten(0, 2).T @ weights / patches**2

    def _linearize(
        self, tokens: Float[Tensor, "p width"], outputs: Float[Tensor, "p width"], after: Float[Tensor, "width n"]
    ) -> _Linearized:
        """Run the block behind the attention on some patches, and keep what its derivatives need."""
        mlp, width = self._mlp, tokens.shape[1]
        before = tokens + _apply(self._layer.self_attn.out_proj, outputs)
        normed, spread = _standardize(before, self._norm.eps)
        hidden = _apply(mlp.fc1, normed * self._norm.weight.float() + self._norm.bias.float())
        active, slopes = _activate(mlp.activation_fn, hidden)
        last, last_spread = _standardize(before + _apply(mlp.fc2, active), self._last_norm.eps)
        slopes = slopes / (last_spread * spread)
        units = slopes * _multiply(normed, self._into_units.T)
        met = _multiply(last, mlp.fc2.weight)  # p m
        pulled = _multiply(slopes * met, self._into_units) - normed * (units * met).sum(1, keepdim=True) / width
        return _Linearized(
            weights=1 / last_spread,
            slopes=slopes.to(self._dtype),
            normed=normed,
            units=(units / width).to(self._dtype),
            corrections=(last / last_spread + pulled) / width,
            features=last @ after,
        )

    def _sum_by_direction(
        self, heads: Sequence[_Head], behind: _Linearized, after: Float[Tensor, "width n"]
    ) -> Float[Tensor, "heads shifts n"]:
        """Take every direction back through some patches' slopes to what moves each head, then sum over the patches."""
        mixing = self._mixing.to(self._dtype)
        units_to_heads = self._into_units @ mixing  # m, heads e
        past_units, of_units = after.T.to(self._dtype) @ mixing, after.T.to(self._dtype) @ self._mlp.fc2.weight
        normed, corrections = (one.to(self._dtype) @ mixing for one in (behind.normed, behind.corrections))
        weights, through_norm = behind.weights.to(self._dtype), behind.units @ of_units.T  # p 1, p n
        features = behind.features.to(self._dtype)
        pulled = normed.new_empty(len(normed), len(heads), len(of_units), normed.shape[1] // len(heads))  # p heads n e
        for i, slopes in enumerate(of_units):
            of_patch = (behind.slopes * slopes) @ units_to_heads
            of_patch.addcmul_(weights, past_units[i])
            of_patch.addcmul_(corrections, features[:, i : i + 1], value=-1)
            of_patch.addcmul_(normed, through_norm[:, i : i + 1], value=-1)
            pulled[:, :, i] = of_patch.unflatten(1, (len(heads), -1))
        return torch.stack([head.sum_along(pulled[:, i]) for i, head in enumerate(heads)])

    def _sum_by_unit(
        self, heads: Sequence[_Head], behind: _Linearized, after: Float[Tensor, "width n"]
    ) -> Float[Tensor, "heads shifts n"]:
        """Sum over some patches what each head does to every hidden unit, then take that to the directions."""
        after_units = (self._mlp.fc2.weight.float().T @ after).to(self._dtype)  # m n
        sums = []
        for head, mixing in zip(heads, self._mixing.chunk(len(heads), dim=1), strict=True):
            to_units = head.sum_weighted(behind.slopes, mixing.T.to(self._dtype) @ self._into_units.T)
            to_units -= _dot(head.project(behind.normed @ mixing).T, behind.units)
            past_units = head.sum_weighted(behind.weights, mixing.T @ after)
            past_units -= head.project(behind.corrections @ mixing) @ behind.features
            sums.append(_dot(to_units.T, after_units) + past_units)
        return torch.stack(sums)


def _dot(columns: Float[Tensor, "p a"], rows: Float[Tensor, "p b"]) -> Float[Tensor, "a b"]:
    """Multiply the transpose of `columns` with `rows` in the precision of the latter; float32."""
    return (columns.to(rows.dtype).T @ rows).float()


def _multiply(rows: Float[Tensor, "p a"], matrix: Float[Tensor, "a b"]) -> Float[Tensor, "p b"]:
    """Multiply in the precision of `matrix`; float32."""
    return (rows.to(matrix.dtype) @ matrix).float()


def _center(rows: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
    return rows - rows.mean(1, keepdim=True)


def _standardize(rows: Float[Tensor, "n width"], eps: float) -> tuple[Float[Tensor, "n width"], Float[Tensor, "n 1"]]:
    """Normalize rows as a layer norm does before its gain and bias; also return the deviations."""
    centered = _center(rows)
    deviations = (centered.square().mean(1, keepdim=True) + eps).sqrt()
    return centered / deviations, deviations


def _apply(linear: nn.Linear, rows: Float[Tensor, "n a"]) -> Float[Tensor, "n b"]:
    mapped: Tensor = linear(rows.to(linear.weight.dtype)).float()
    return mapped


def _activate(
    activation: Callable[[Tensor], Tensor], hidden: Float[Tensor, "p m"]
) -> tuple[Float[Tensor, "p m"], Float[Tensor, "p m"]]:
    """Return an elementwise activation of the hidden units, and its slopes there."""
    with torch.inference_mode(False), torch.enable_grad():  # a copy: inference tensors have no gradients
        hidden = hidden.clone().requires_grad_()
        active = activation(hidden)
        (slopes,) = torch.autograd.grad(active.sum(), hidden)
    return active.detach(), slopes
