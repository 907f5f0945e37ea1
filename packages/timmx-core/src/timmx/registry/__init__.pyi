from timmx.registry.boundary import watching_exits as watching_exits
from timmx.registry.discovery import (
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
    unreadable as unreadable,
    usable as usable,
)
from timmx.registry.distributions import skip_unreadable_entry_points as skip_unreadable_entry_points
from timmx.registry.doctor import examine as examine
from timmx.registry.options import (
    REQUIRED as REQUIRED,
    OptionSpec as OptionSpec,
    build as build,
    option_specs as option_specs,
    reject_unknown as reject_unknown,
    set_signature as set_signature,
)
from timmx.registry.probe import probe_backends as probe_backends
