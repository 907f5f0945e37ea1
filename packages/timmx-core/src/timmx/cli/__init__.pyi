from timmx.cli.application import app as app, main as main
