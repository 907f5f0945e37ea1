from timmx.tools.predict.prediction import Predictions as Predictions, predict as predict
