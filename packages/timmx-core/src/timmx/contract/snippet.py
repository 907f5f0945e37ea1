"""How a file is loaded and run in one language, as a backend describes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Snippet:
    """How a file is loaded and run in one language; `timmx inspect --snippet` puts the image's way around it.

    Attributes:
        requires: what to install, as the language's users would name it.
        imports: lines for the top.
        load: lines that open the file.
        run: lines that run it. They find the prepared image as `x` and leave the first output as `output`. In Python
            both are numpy arrays with the batch in front; in the other languages both are flat, of one image.
        labels: an expression that reads the class names from the opened file; empty where there is none.
        takes_picture: `x` is the image itself, resized and cropped, in the type that the language has for images.
        least_batch: as many images the file wants at least, where its batch is open.
    """

    requires: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    load: tuple[str, ...] = ()
    run: tuple[str, ...] = ()
    labels: str = ""
    takes_picture: bool = False
    least_batch: int = 1
