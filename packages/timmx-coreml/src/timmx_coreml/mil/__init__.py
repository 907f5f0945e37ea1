"""Reads an ML program and evaluates it with torch, for systems without Core ML."""

from timmx_coreml.mil.evaluator import MilEvaluator
from timmx_coreml.mil.large_values import LargeValue

__all__ = ["LargeValue", "MilEvaluator"]
