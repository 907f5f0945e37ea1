from timmx.capture.decomposition import decompose as decompose, quick_decompositions as quick_decompositions
from timmx.capture.lowering.attention import attention_on_four_axes as attention_on_four_axes
from timmx.capture.lowering.cleanup import (
    drop_copies as drop_copies,
    drop_expands as drop_expands,
    infer_symbolic_sizes as infer_symbolic_sizes,
    merge_reshapes as merge_reshapes,
    use_reshapes as use_reshapes,
)
from timmx.capture.lowering.constants import traced_constant as traced_constant
from timmx.capture.lowering.padding import crop_and_pad as crop_and_pad
from timmx.capture.lowering.ranks import rank_decompositions as rank_decompositions
from timmx.capture.lowering.resampling import (
    BICUBIC_OR_ANTIALIASED as BICUBIC_OR_ANTIALIASED,
    adaptive_avg_pool2d as adaptive_avg_pool2d,
    resize_by_matmul as resize_by_matmul,
)
from timmx.capture.lowering.unfolding import col2im as col2im, crop_padding as crop_padding, im2col as im2col
from timmx.capture.rewrites import fold_constants as fold_constants
from timmx.capture.trace import capture as capture, move_to_cpu as move_to_cpu
