from timmx.quantization.exemptions import exempt_layers as exempt_layers
from timmx.quantization.float32_set import (
    Float32Set as Float32Set,
    smallest_float32_set as smallest_float32_set,
)
from timmx.quantization.half import HalfPrecisionProgram as HalfPrecisionProgram
from timmx.quantization.plan import Planner as Planner
from timmx.quantization.ranges import Observed as Observed
