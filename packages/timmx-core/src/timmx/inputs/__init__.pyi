from timmx.inputs.calibration import (
    CalibrationInputs as CalibrationInputs,
    calibration_flags as calibration_flags,
    check_calibration as check_calibration,
    check_int8_calibration as check_int8_calibration,
    check_representative as check_representative,
    choose_calibration as choose_calibration,
)
from timmx.inputs.conversion import feed as feed, fetch as fetch
from timmx.inputs.image_bytes import check_image_bytes as check_image_bytes
from timmx.inputs.images import (
    IMAGE_SUFFIXES as IMAGE_SUFFIXES,
    MOST_PIXELS as MOST_PIXELS,
    PIXELS_HINT as PIXELS_HINT,
    ImageSettings as ImageSettings,
    files_left_out as files_left_out,
    image_paths as image_paths,
    left_out as left_out,
    list_images as list_images,
    other_files as other_files,
    spread as spread,
)
from timmx.inputs.preprocess import ImagePreprocessor as ImagePreprocessor
from timmx.inputs.running import (
    check_interface as check_interface,
    interface_mismatch as interface_mismatch,
    run_batches as run_batches,
)
from timmx.inputs.samples import (
    LEAST_INPUTS as LEAST_INPUTS,
    SYNTHETIC_INPUTS as SYNTHETIC_INPUTS,
    ImageSamples as ImageSamples,
    Samples as Samples,
    SyntheticSamples as SyntheticSamples,
    choose_samples as choose_samples,
)
