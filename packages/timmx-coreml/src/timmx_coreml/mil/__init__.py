"""Reads an ML program back and evaluates it with torch: Core ML's numbers where Core ML does not exist."""

from timmx_coreml.mil.evaluator import LargeValue, MilEvaluator

__all__ = ["LargeValue", "MilEvaluator"]
