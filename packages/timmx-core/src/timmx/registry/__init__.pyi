from timmx.registry.discovery import (
    GROUP as GROUP,
    BackendEntry as BackendEntry,
    State as State,
    distribution_of as distribution_of,
    entries as entries,
    find as find,
    is_strict as is_strict,
    known_backends as known_backends,
    load as load,
    load_entry as load_entry,
    name_trouble as name_trouble,
    require_sound as require_sound,
    usable as usable,
)
from timmx.registry.doctor import examine as examine
from timmx.registry.options import (
    build as build,
    defaults as defaults,
    option_types as option_types,
    reject_unknown as reject_unknown,
    value_kind as value_kind,
)
from timmx.registry.probe import probe_backends as probe_backends
