"""Small networks of many kinds of layers, as a user might bring."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def batchnorm(channels, space, classes):
    d = len(space)
    return nn.Sequential(
        CONV[d](channels, 4, 3, padding=1, bias=False), NORM[d](4), nn.ReLU(inplace=True),
        CONV[d](4, 6, 3, stride=2, padding=1), NORM[d](6, track_running_stats=False), nn.SiLU(),
        POOL[d](2), nn.Flatten(), nn.Linear(6 * 2**d, classes),
    )  # fmt: skip


def attention(channels, space, classes):
    return Attention(channels, len(space), classes)


class Attention(nn.Module):
    """Fused attention, GroupNorm, LayerNorm, dropout; the head comes first, parts are not used."""

    def __init__(self, channels, dimensions, classes):
        super().__init__()
        self.head = nn.Linear(8, classes)
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)
        self.patches = CONV[dimensions](channels, 8, 4, stride=4)
        self.groups = nn.GroupNorm(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.dropout = nn.LayerNorm(8), nn.Dropout(0.2)

    def forward(self, images):
        tokens = self.groups(self.patches(images)).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.dropout(self.norm(tokens) * self.frozen).mean(1))


def biasless(channels, space, classes):
    d = len(space)
    return nn.Sequential(
        CONV[d](channels, 4, 3, stride=2), nn.GELU(), POOL[d](2), nn.Flatten(),
        nn.Linear(4 * 2**d, classes, bias=False),
    )  # fmt: skip


def convolutional(channels, space, classes):
    d = len(space)
    return nn.Sequential(
        CONV[d](channels, 4, 3, stride=2),
        nn.ELU(),
        CONV[d](4, classes, 1),
        POOL[d](1),
        nn.Flatten(),
    )


def linear_chain(channels, space, classes):
    pixels = channels * torch.Size(space).numel()
    return nn.Sequential(
        nn.Flatten(), nn.Linear(pixels, 6), nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(6, classes)
    )


def fused_attention(channels, space, classes):
    return FusedAttention(channels, len(space), classes)


class FusedAttention(nn.Module):
    """Attention that insists on a kernel without a second derivative."""

    def __init__(self, channels, dimensions, classes):
        super().__init__()
        self.patches = CONV[dimensions](channels, 8, 4, stride=4)
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)[:, None].contiguous()
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.head(mixed.mean((1, 2)))
