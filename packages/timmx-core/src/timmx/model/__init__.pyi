from timmx.model.activations import Fit as Fit, fit_of as fit_of
from timmx.model.awakening import awaken as awaken
from timmx.model.checkpoint import (
    CHECKPOINT_SUFFIXES as CHECKPOINT_SUFFIXES,
    check_content as check_content,
    read_pickle as read_pickle,
)
from timmx.model.data_config import (
    DataConfig as DataConfig,
    check_statistics as check_statistics,
    value_range as value_range,
)
from timmx.model.index import (
    Index as Index,
    check_model_name as check_model_name,
    completions as completions,
    load_index as load_index,
    search as search,
)
from timmx.model.info import model_info as model_info
from timmx.model.labels import check_count as check_count, read_labels as read_labels
from timmx.model.load import (
    LoadedModel as LoadedModel,
    check_load_options as check_load_options,
    hash_weights as hash_weights,
    load_model as load_model,
)
from timmx.model.memory import check_memory as check_memory
from timmx.model.preparation import Rewrite as Rewrite, copy_model as copy_model, prepare as prepare
from timmx.model.wrap import (
    ExportModule as ExportModule,
    Normalize as Normalize,
    output_names as output_names,
    output_tensors as output_tensors,
)
