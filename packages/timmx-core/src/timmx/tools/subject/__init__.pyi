from timmx.tools.subject.against import (
    TorchRunner as TorchRunner,
    check_weights as check_weights,
    file_named as file_named,
    open_model as open_model,
    refuse_model_options as refuse_model_options,
    request_for as request_for,
)
from timmx.tools.subject.stream import (
    Answer as Answer,
    answers as answers,
    open_for_stream as open_for_stream,
)
from timmx.tools.subject.subject import (
    Described as Described,
    Subject as Subject,
    check_batch_size as check_batch_size,
    describe as describe,
    open_subject as open_subject,
)
