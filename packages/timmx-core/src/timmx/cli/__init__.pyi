from timmx.cli.main import app as app, main as main
