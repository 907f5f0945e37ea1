"""Core ML `neuralnetwork` specifications run with torch, so that a file's numbers are known where macOS is not."""

from timmx_coreml.neural_network.evaluator import NeuralNetworkEvaluator

__all__ = ["NeuralNetworkEvaluator"]
