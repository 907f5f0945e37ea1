"""Decompositions of operations that formats lack; a backend chooses the ones it needs."""
