"""Code that loads and runs a file in one language."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """Code that loads and runs a file in one language; `timmx inspect --snippet` adds the preprocessing.

    Attributes:
        requires: packages to install, by the names used in that language.
        imports: lines for the top.
        load: lines that open the file.
        run: lines that run it, from the preprocessed image `x` to the first output `output`. In Python both are numpy
            arrays with a batch dimension; in the other languages both are flat and hold one image.
        labels: an expression that reads the class names from the opened file; empty if there is none.
        takes_image: `x` is the image itself, resized and cropped, in the language's type for images.
        least_batch: the smallest batch size that the file accepts, if its batch size is dynamic.
    """

    requires: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    labels: str = ""
    takes_image: bool = False
    least_batch: int = 1
