"""MediaPipe, which checks the metadata that is written for it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def mediapipe():
    """The library. Its wheel can be installed without the display libraries that it is linked against."""
    module = pytest.importorskip("mediapipe", exc_type=ImportError)
    try:
        from mediapipe.tasks.python.core import mediapipe_c_bindings

        mediapipe_c_bindings.load_raw_library()
    except OSError as error:
        pytest.skip(f"MediaPipe does not load here: {error}")
    return module


@pytest.fixture(scope="session")
def classify(mediapipe):
    """Classifies images, uint8 (H, W, 3), by its ImageClassifier: the output's name, and label to score, best first."""
    from mediapipe.tasks.python import BaseOptions, vision

    def call(model, *images):
        options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_buffer=model))
        results = []
        with vision.ImageClassifier.create_from_options(options) as classifier:
            for pixels in images:
                image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
                (result,) = classifier.classify(image).classifications
                scores = {category.category_name: category.score for category in result.categories}
                results.append((result.head_name, scores))
        return results

    return call
