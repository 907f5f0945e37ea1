"""The operations for XNNPACK: those that ExecuTorch gives it, and linear layers with 8-bit weights only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
from executorch.backends.xnnpack.partition.config.gemm_configs import LinearConfig
from executorch.backends.xnnpack.partition.config.xnnpack_config import ConfigPrecisionType
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.utils.quant_utils import is_dequant
from executorch.backends.xnnpack.utils.utils import get_input_node

if TYPE_CHECKING:
    import torch


class _Linear(LinearConfig):  # type: ignore[misc]
    """Takes 8-bit weights with float activations too: XNNPACK computes them, and executorch 1.5 does not offer them."""

    def _get_act_deps(
        self, node: torch.fx.Node, ep: torch.export.ExportedProgram, precision: ConfigPrecisionType
    ) -> tuple[bool, list[torch.fx.Node]]:
        return (True, []) if _stores(node) else super()._get_act_deps(node, ep, precision)

    def _get_output_deps(
        self, node: torch.fx.Node, ep: torch.export.ExportedProgram, precision: ConfigPrecisionType
    ) -> tuple[bool, list[torch.fx.Node]]:
        return super()._get_output_deps(node, ep, ConfigPrecisionType.FP32 if _stores(node) else precision)


def _stores(node: torch.fx.Node) -> bool:
    """Whether only the weight is quantized."""
    return is_dequant(get_input_node(node, 1)) and not is_dequant(get_input_node(node, 0))


def xnnpack_partitioner() -> XnnpackPartitioner:
    """What chooses the operations of XNNPACK."""
    configs = [_Linear if config is LinearConfig else config for config in ALL_PARTITIONER_CONFIGS]
    return XnnpackPartitioner(configs=configs)
