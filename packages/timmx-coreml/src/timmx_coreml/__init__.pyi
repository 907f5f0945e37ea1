from timmx_coreml.runner import open_runner as open_runner
