from timmx.quantization.ranges import Observed as Observed
