"""The residual block: two convolutions, each after a fused norm; the second norm takes the condition's scale and shift.

Blocks hand on sums that are still pending, and take a second source beside their input without a concatenation: additions and
concatenations happen inside the norms, forward and backward.
"""

from __future__ import annotations

from torch import Tensor, nn

from galaxysd.model.layers import Attention, Conv, NormSiLU, Pending, Skip


class ResBlock(nn.Module):
    """h [B, C, H, W], with `other` beside it -> [B, outputs, H, W]; `scale_shift` is [B, 2 outputs]. Attention follows where asked for."""

    def __init__(self, inputs: int, outputs: int, group_width: int, head_width: int = 0, qk_norm: bool = False) -> None:
        super().__init__()
        self.norm1 = NormSiLU(inputs, group_width)
        self.conv1 = Conv(inputs, outputs)
        self.norm2 = NormSiLU(outputs, group_width)
        self.conv2 = Conv(outputs, outputs, zero=True)
        self.skip = Skip(inputs, outputs) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs, head_width, group_width, qk_norm) if head_width else nn.Identity()
        self.outputs = outputs

    def forward(self, h: Pending, scale_shift: Tensor, other: Tensor | None = None) -> tuple[Pending, Tensor | None]:
        """The block's output, and its input as one map for a decoder to read; of one with two sources, which nobody reads, nothing."""
        scale, shift = scale_shift.chunk(2, 1)
        y, sources = self.norm1.carry_into(self.conv1, h, other)
        y = self.norm2.into(self.conv2, y, scale, shift)
        out: Pending = self.attention(Pending(self.skip(*sources), y))
        # What is not used must not leave: of a compiled block's outputs each gets a gradient, of zeros if need be, in another layout.
        return out, sources[0] if other is None else None
