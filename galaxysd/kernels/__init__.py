"""Fused operations of the network: one public function an operation, one file an operation."""

from __future__ import annotations

from galaxysd.kernels.attend import attention
from galaxysd.kernels.norm import group_norm_silu, group_norm_silu_carry
from galaxysd.kernels.plain import lowered

__all__ = ["attention", "group_norm_silu", "group_norm_silu_carry", "lowered"]
