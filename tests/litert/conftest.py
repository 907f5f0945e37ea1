"""MediaPipe, which judges the metadata in a file for it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def mediapipe():
    """The library. Its wheel may be there where the display libraries that it is linked against are not."""
    module = pytest.importorskip("mediapipe", exc_type=ImportError)
    try:
        from mediapipe.tasks.python.core import mediapipe_c_bindings

        mediapipe_c_bindings.load_raw_library()
    except OSError as error:
        pytest.skip(f"MediaPipe does not load here: {error}")
    return module


@pytest.fixture(scope="session")
def classify(mediapipe):
    """What its ImageClassifier says of pictures, uint8 (H, W, 3): the output's name, and label to score, best first."""
    from mediapipe.tasks.python import BaseOptions, vision

    def call(model, *pictures):
        options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_buffer=model))
        found = []
        with vision.ImageClassifier.create_from_options(options) as classifier:
            for pixels in pictures:
                picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
                (result,) = classifier.classify(picture).classifications
                scores = {category.category_name: category.score for category in result.categories}
                found.append((result.head_name, scores))
        return found

    return call
