from timmx.quantization.exemptions import exempt_layers as exempt_layers
from timmx.quantization.float32_set import (
    Float32Set as Float32Set,
    smallest_float32_set as smallest_float32_set,
)
from timmx.quantization.half import (
    HalfPrecisionProgram as HalfPrecisionProgram,
    float32_nodes as float32_nodes,
    moving_nodes as moving_nodes,
)
from timmx.quantization.plan import Planner as Planner
from timmx.quantization.ranges import Observed as Observed
