from timmx.contract.backend import (
    SUPPORTED_CONTRACTS as SUPPORTED_CONTRACTS,
    ExportBackend as ExportBackend,
    NoOptions as NoOptions,
    register_command_maker as register_command_maker,
)
from timmx.contract.capabilities import (
    Capabilities as Capabilities,
    Precision as Precision,
    Problem as Problem,
    WeightsLimit as WeightsLimit,
)
from timmx.contract.job import (
    Calibration as Calibration,
    Exported as Exported,
    ExportJob as ExportJob,
    Repair as Repair,
)
from timmx.contract.metadata import (
    Activation as Activation,
    InputMetadata as InputMetadata,
    InvalidMetadata as InvalidMetadata,
    Metadata as Metadata,
    ModelMetadata as ModelMetadata,
    OutputKind as OutputKind,
    OutputMetadata as OutputMetadata,
    parse_json_object as parse_json_object,
)
from timmx.contract.options import (
    DEFAULT_CALIBRATION_SAMPLES as DEFAULT_CALIBRATION_SAMPLES,
    LEAST_AGREEMENT as LEAST_AGREEMENT,
    LEAST_CALIBRATION_SAMPLES as LEAST_CALIBRATION_SAMPLES,
    MODEL_OPTIONS as MODEL_OPTIONS,
    CalibrationChoice as CalibrationChoice,
    CalibrationData as CalibrationData,
    CalibrationMethod as CalibrationMethod,
    CalibrationSamples as CalibrationSamples,
    Device as Device,
    ExportRequest as ExportRequest,
    Floats as Floats,
    Ints as Ints,
    JsonOption as JsonOption,
    MaxDrop as MaxDrop,
    RandomCalibration as RandomCalibration,
    RuntimeDevice as RuntimeDevice,
    agreement_share as agreement_share,
)
from timmx.contract.planning import (
    HARDSWISH_ZERO as HARDSWISH_ZERO,
    Figures as Figures,
    IntegerScheme as IntegerScheme,
    LayerKind as LayerKind,
    LayerState as LayerState,
    QuantizableLayer as QuantizableLayer,
    QuantizationPlan as QuantizationPlan,
    QuantizationPlanner as QuantizationPlanner,
    WeightKey as WeightKey,
    Wish as Wish,
    plan_notes as plan_notes,
)
from timmx.contract.preprocessing import (
    CROP_MODE as CROP_MODE,
    CROP_PCT as CROP_PCT,
    INTERPOLATION as INTERPOLATION,
    MEAN as MEAN,
    MOST_ELEMENTS as MOST_ELEMENTS,
    SIZE as SIZE,
    STD as STD,
    Rule as Rule,
    is_integer as is_integer,
    is_mean as is_mean,
    is_number as is_number,
    is_std as is_std,
)
from timmx.contract.runner import (
    OpenSettings as OpenSettings,
    Operation as Operation,
    Quantization as Quantization,
    Runner as Runner,
    SeparateOperations as SeparateOperations,
    TensorSpec as TensorSpec,
)
from timmx.contract.snippet import Snippet as Snippet, in_ascii as in_ascii, quote_string as quote_string
