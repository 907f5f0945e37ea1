"""Reads an ML program back and evaluates it with torch: Core ML's numbers where Core ML does not exist."""

from timmx_coreml.mil.evaluator import MilEvaluator
from timmx_coreml.mil.large_values import LargeValue

__all__ = ["LargeValue", "MilEvaluator"]
