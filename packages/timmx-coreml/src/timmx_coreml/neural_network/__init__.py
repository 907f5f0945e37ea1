"""Evaluates Core ML `neuralnetwork` models with torch, for systems without Core ML."""

from timmx_coreml.neural_network.evaluator import NeuralNetworkEvaluator

__all__ = ["NeuralNetworkEvaluator"]
