from timmx.artifact.changes import ChangeCheck as ChangeCheck, remember_export as remember_export
from timmx.artifact.collisions import keep_inputs as keep_inputs
from timmx.artifact.opening import (
    backend_for as backend_for,
    backend_of as backend_of,
    open_artifact as open_artifact,
    open_with as open_with,
    read_artifact as read_artifact,
)
from timmx.artifact.own_files import is_own as is_own, remember_own as remember_own
from timmx.artifact.publishing import (
    Staging as Staging,
    clean_up as clean_up,
    staging as staging,
    writing as writing,
)
from timmx.artifact.records import (
    MANIFEST_NAME as MANIFEST_NAME,
    digest as digest,
    recall as recall,
    remember as remember,
)
