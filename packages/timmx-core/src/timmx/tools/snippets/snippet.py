"""Writes short code that loads and feeds one file, in the language of its target platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timmx.artifact import read_artifact
from timmx.errors import ConfigurationError
from timmx.registry import distribution_of
from timmx.tools.snippets.facts import Facts

if TYPE_CHECKING:
    from pathlib import Path

LANGUAGES = ("python", "swift", "kotlin", "js", "cpp")


def make_snippet(path: Path, language: str) -> str:
    """Code that preprocesses an image for this file, runs the file, and prints the result.

    Args:
        path: of a file that timmx wrote.
        language: one of `LANGUAGES`.

    Raises:
        ArtifactError: the file does not exist, is damaged, was not written by timmx, or takes no images.
        BackendError: no installed backend opens it.
        ConfigurationError: the language is unknown, or this format has no snippet in it.
    """
    if language not in LANGUAGES:
        raise ConfigurationError(
            f"--snippet {language} is not a known language", hint=f"use one of {', '.join(LANGUAGES)}"
        )
    path = path.expanduser()
    backend, metadata = read_artifact(path)
    if language not in backend.snippet_languages:
        raise ConfigurationError(
            f"{backend.name} files such as {path.name} have no snippet in {language}",
            hint=f"use one of {', '.join(backend.snippet_languages)}",
        )
    facts = Facts.of(path, metadata)
    piece = backend.snippet(path, metadata, language)
    facts.preprocessor.check()
    if language == "python":
        from timmx.tools.snippets.python import compose, through_timmx

        return compose(facts, piece or through_timmx(facts, distribution_of(backend)))
    if piece is None:
        raise ConfigurationError(f"{path.name} has no snippet in {language}", hint="use --snippet python")
    if language == "js":
        from timmx.tools.snippets.javascript import compose
    elif language == "cpp":
        from timmx.tools.snippets.cpp import compose
    elif language == "kotlin":
        from timmx.tools.snippets.kotlin import compose
    else:
        from timmx.tools.snippets.swift import compose
    return compose(facts, piece)
