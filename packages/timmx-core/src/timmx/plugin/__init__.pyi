from timmx.base import (
    asked_threads as asked_threads,
    atomic_write as atomic_write,
    door as door,
    reporter as reporter,
    require_file as require_file,
    usable_cores as usable_cores,
    worst_db as worst_db,
)
from timmx.capture import (
    BICUBIC_OR_ANTIALIASED as BICUBIC_OR_ANTIALIASED,
    adaptive_avg_pool2d as adaptive_avg_pool2d,
    col2im as col2im,
    crop_padding as crop_padding,
    drop_copies as drop_copies,
    drop_expands as drop_expands,
    fold_constants as fold_constants,
    im2col as im2col,
    infer_symbolic_sizes as infer_symbolic_sizes,
    merge_reshapes as merge_reshapes,
    rank_decompositions as rank_decompositions,
    resize_by_matmul as resize_by_matmul,
    traced_constant as traced_constant,
    use_reshapes as use_reshapes,
)
from timmx.contract import (
    Calibration as Calibration,
    CalibrationChoice as CalibrationChoice,
    CalibrationData as CalibrationData,
    CalibrationMethod as CalibrationMethod,
    CalibrationSamples as CalibrationSamples,
    Capabilities as Capabilities,
    ExportBackend as ExportBackend,
    Exported as Exported,
    ExportJob as ExportJob,
    ExportRequest as ExportRequest,
    InputMetadata as InputMetadata,
    Ints as Ints,
    Metadata as Metadata,
    ModelMetadata as ModelMetadata,
    OutputKind as OutputKind,
    OutputMetadata as OutputMetadata,
    Precision as Precision,
    Problem as Problem,
    Quantization as Quantization,
    RandomCalibration as RandomCalibration,
    Runner as Runner,
    Snippet as Snippet,
    TensorSpec as TensorSpec,
    parse_json_object as parse_json_object,
)
from timmx.errors import (
    ArtifactError as ArtifactError,
    ConfigurationError as ConfigurationError,
    RuntimeUnavailable as RuntimeUnavailable,
    UnsupportedError as UnsupportedError,
    VerificationError as VerificationError,
)
from timmx.exporting import command_words as command_words
from timmx.inputs import check_calibration as check_calibration, feed as feed, given_flags as given_flags
from timmx.model import check_count as check_count
from timmx.quantization import Observed as Observed
