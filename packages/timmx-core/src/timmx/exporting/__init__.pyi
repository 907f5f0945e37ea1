from timmx.exporting.artifact_session import ArtifactSession as ArtifactSession
from timmx.exporting.command import command_words as command_words, create_command as create_command
from timmx.exporting.metadata import installed_versions as installed_versions
from timmx.exporting.outputs import KNOWN_SUFFIXES as KNOWN_SUFFIXES, default_name as default_name
from timmx.exporting.parallel import MODULES as MODULES
from timmx.exporting.pipeline import (
    ExportResult as ExportResult,
    export as export,
    export_session as export_session,
)
from timmx.exporting.recipe import read_recipe as read_recipe, recipe_schema as recipe_schema
from timmx.exporting.session import ModelSession as ModelSession
from timmx.exporting.several import (
    Failure as Failure,
    ManyResult as ManyResult,
    export_many as export_many,
    parse_targets as parse_targets,
    plan_exports as plan_exports,
    plan_separately as plan_separately,
    record_result as record_result,
)
from timmx.exporting.targets import Target as Target, check_extra_outputs as check_extra_outputs
from timmx.exporting.validation import calibration_data as calibration_data
