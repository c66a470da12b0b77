"""The residual block: two convolutions, each after a fused norm; the second norm takes the condition's scale and shift."""

from __future__ import annotations

from torch import Tensor, nn

from galaxysd.model.layers import Attention, Conv, NormSiLU


class ResBlock(nn.Module):
    """x [B, C, H, W] -> [B, outputs, H, W]; `scale_shift` is [B, 2 outputs]. Attention follows where asked for."""

    def __init__(self, inputs: int, outputs: int, group_width: int, head_width: int = 0) -> None:
        super().__init__()
        self.norm1 = NormSiLU(inputs, group_width)
        self.conv1 = Conv(inputs, outputs)
        self.norm2 = NormSiLU(outputs, group_width)
        self.conv2 = Conv(outputs, outputs, zero=True)
        self.skip = Conv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs, head_width, group_width) if head_width else nn.Identity()
        self.outputs = outputs

    def forward(self, x: Tensor, scale_shift: Tensor) -> Tensor:
        scale, shift = scale_shift.chunk(2, 1)
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.norm2(h, scale, shift))
        out: Tensor = self.attention(self.skip(x) + h)
        return out
