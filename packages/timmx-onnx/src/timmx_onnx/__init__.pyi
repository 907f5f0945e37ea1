from timmx_onnx.calibrate import observe as observe
from timmx_onnx.export import to_float16 as to_float16, translate as translate, write as write
from timmx_onnx.float32_islands import subgraphs as subgraphs
from timmx_onnx.keys import DATA_KEY as DATA_KEY
from timmx_onnx.names import Names as Names, add_constant as add_constant
from timmx_onnx.plugin import OnnxBackend as OnnxBackend
from timmx_onnx.precision import lower_precision as lower_precision
from timmx_onnx.proto import (
    check_data as check_data,
    external_files as external_files,
    read_metadata as read_metadata,
    read_proto as read_proto,
)
from timmx_onnx.repair import nodes_in_float32 as nodes_in_float32
from timmx_onnx.runner import (
    OnnxRunner as OnnxRunner,
    open_session as open_session,
)
from timmx_onnx.running import opened as opened
from timmx_onnx.weights import (
    WEIGHTED as WEIGHTED,
    Layer as Layer,
    constant as constant,
    infer_shapes as infer_shapes,
    layers as layers,
    scaled_weight as scaled_weight,
)
