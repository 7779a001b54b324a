"""A vision transformer whose first block has attention without normalisation."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medbreach.components import Model
from medbreach.errors import ModelError
from medbreach.types import ImageSpec

Tokens = Float[Tensor, "batch tokens width"]


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tokens) -> Tokens:
        """Mix the tokens."""
        split = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = split.unbind()
        # written out: its second derivative is needed, which fused kernels lack
        weights = (queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5).softmax(-1)
        mixed: Tensor = self.proj((weights @ values).transpose(1, 2).flatten(2))
        return mixed


class OpenBlock(nn.Module):
    """Attention, then a normalised MLP, neither with a skip connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _mlp(width)

    def forward(self, tokens: Tokens) -> Tokens:
        """Transform the tokens."""
        transformed: Tensor = self.mlp(self.norm2(self.attn(tokens)))
        return transformed


class Block(nn.Module):
    """Normalised attention and a normalised MLP, both with skip connections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _mlp(width)

    def forward(self, tokens: Tokens) -> Tokens:
        """Transform the tokens."""
        tokens = tokens + self.attn(self.norm1(tokens))
        transformed: Tensor = tokens + self.mlp(self.norm2(tokens))
        return transformed


class PatchEmbedding(nn.Module):
    """One token a patch."""

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride=patch)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Cut images into tokens."""
        tokens: Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return tokens


class Transformer(nn.Module):
    """Patches, a class token and learned positions, an open block, other blocks, a linear head."""

    def __init__(
        self, spec: ImageSpec, classes: int, patch: int, width: int, depth: int, heads: int
    ) -> None:
        super().__init__()
        tokens = (spec.space[0] // patch) * (spec.space[1] // patch) + 1
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.patch_embed = PatchEmbedding(spec.channels, patch, width)
        others = (Block(width, heads) for _ in range(depth - 1))
        self.blocks = nn.ModuleList([OpenBlock(width, heads), *others])
        self.head = nn.Linear(width, classes)

    def forward(self, images: Float[Tensor, "batch channels height width"]) -> Tensor:
        """Return one output a class."""
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        outputs: Tensor = self.head(tokens[:, 0])
        return outputs


def _mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


@dataclass(frozen=True)
class AprilTransformer(Model):
    """A small vision transformer that the attention inversion applies to. Square 2D images.

    Attributes:
        patch: Pixels along each side of a patch.
        width: Width of a token; more than the number of tokens and than a patch has values, or the
            inversion is ambiguous. The fewer tokens, the less does rounding blur it.
        depth: Number of blocks; at least two, for only the class token is read after the last one,
            so its gradient says little of the other tokens.
        heads: Number of attention heads.
    """

    name: ClassVar[str] = "vit_april"
    source: ClassVar[str] = "Lu et al. 2022, arXiv:2112.14087, architecture (B)"
    differs: ClassVar[str] = "Two blocks of width 256 (ours); the source modifies ViT-Base."

    patch: int = 8
    width: int = 256
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        if self.depth < 2:
            raise ValueError(f"depth must be at least 2, got {self.depth}")
        if min(self.patch, self.heads) < 1 or self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads")

    def build(self, spec: ImageSpec, classes: int) -> nn.Module:
        """Return the network.

        Raises:
            ModelError: The images are not square, or their side is no multiple of the patch.
        """
        if len(spec.space) != 2 or spec.space[0] != spec.space[1] or spec.space[0] % self.patch:
            raise ModelError(
                f"vit_april takes square 2D images whose side is a multiple of {self.patch}"
            )
        return Transformer(spec, classes, self.patch, self.width, self.depth, self.heads)
