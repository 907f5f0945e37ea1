from timmx.cli.application import app as app
from timmx.cli.start import main as main
