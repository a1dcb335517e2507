"""The average precision of boxes."""

import numpy as np
import pytest

import qir
from qir.metrics import Answers, DetectionPrecision
from tests.metrics.figures import figure, floats

pytest.importorskip("pycocotools")

LEFT, RIGHT = [0, 0, 10, 10], [20, 0, 30, 10]


def there(*boxes, classes=None, **more):
    return {"boxes": list(boxes), "classes": classes or [1] * len(boxes), **more}


def found(*images):
    """Boxes, scores and classes of images, each a list of box, score and class."""
    return tuple(floats([[each[part] for each in image] for image in images]) for part in (0, 1, 2))


def precision(*batches, **options):
    metric = DetectionPrecision(**options)
    return figure(metric, *(Answers(outputs, targets) for outputs, targets in batches))


def test_boxes_that_are_where_they_should_be():
    batch = found([(LEFT, 0.9, 1), (RIGHT, 0.8, 1)]), [there(LEFT, RIGHT)]
    assert precision(batch) == pytest.approx(1.0)


def test_half_of_the_boxes():
    # Recalls of up to a half have precision 1: 51 of COCO's 101 places.
    batch = found([(LEFT, 0.9, 1), (LEFT, 0.0, 1)]), [there(LEFT, RIGHT)]
    assert precision(batch) == pytest.approx(51 / 101)
    # A wrong box that is surer than the right one halves what it finds.
    wrong = found([([50, 50, 60, 60], 0.95, 1), (LEFT, 0.9, 1)]), [there(LEFT)]
    assert precision(wrong) == pytest.approx(0.5)


def test_the_ranking_is_of_all_images_of_all_batches():
    right = found([(LEFT, 0.9, 1)]), [there(LEFT)]
    wrong = found([(RIGHT, 0.95, 1)]), [there(LEFT)]
    # Behind one that is wrong, one of two is right: precision 1/2 at recalls of up to a half.
    assert precision(wrong, right) == pytest.approx(51 / 101 / 2)
    # The mean of the batches would not see which is surer.
    surer = found([(LEFT, 0.99, 1)]), [there(LEFT)]
    assert precision(wrong, surer) == pytest.approx(51 / 101)


def test_overlaps():
    # Boxes of 100 that share 80: 80 / 120 is above four of COCO's ten overlaps.
    batch = found([([2, 0, 12, 10], 0.9, 1)]), [there(LEFT)]
    assert precision(batch) == pytest.approx(0.4)
    assert precision(batch, overlap=0.5) == pytest.approx(1.0)
    assert precision(batch, overlap=0.7) == 0


def test_classes_are_averaged():
    batch = found([(LEFT, 0.9, 1), (RIGHT, 0.9, 7)]), [there(LEFT, RIGHT, classes=[1, 2])]
    assert precision(batch) == pytest.approx(0.5)


def test_forms_of_boxes_and_places_of_outputs():
    wide = [0, 0, 20, 10]
    scores, classes = floats([[0.9]]), floats([[1]])
    for form, box in (("xyxy", wide), ("yxyx", [0, 0, 10, 20]), ("xywh", wide)):
        target = [{"boxes": np.array([box]), "classes": np.array([1])}]
        outputs = classes, floats([[box]]), scores
        options = {"boxes": 1, "scores": 2, "classes": 0, "form_of_boxes": form}
        assert precision((outputs, target), **options) == pytest.approx(1.0)
    turned = found([([0, 0, 10, 20], 0.9, 1)]), [there(wide)]
    assert precision(turned, overlap=0.5) == 0


def test_a_crowd_is_neither_found_nor_missed():
    batch = found([(LEFT, 0.9, 1), (RIGHT, 0.95, 1)]), [there(LEFT, RIGHT, crowd=[0, 1])]
    assert precision(batch) == pytest.approx(1.0)


def test_nothing_found_is_0_and_nothing_there_is_no_figure():
    assert precision((found([(LEFT, 0.0, 1)]), [there(LEFT)])) == 0
    assert np.isnan(precision((found([(LEFT, 0.9, 1)]), [there()])))
    assert np.isnan(precision((found([(LEFT, np.nan, 1)]), [there(LEFT)])))


@pytest.mark.parametrize(
    ("outputs", "targets", "told"),
    [
        (found([(LEFT, 0.9, 1)])[:2], [there(LEFT)], "expected 3 outputs"),
        (found([(LEFT, 0.9, 1)])[::-1], [there(LEFT)], "boxes=, scores= and classes= say which"),
        (found([(LEFT, 0.9, 1)]), [], "expected a list of 1 dicts, one an image"),
        (found([(LEFT, 0.9, 1)]), [{"boxes": [LEFT]}], "expected 'classes' of image 0, got none"),
        (found([(LEFT, 0.9, 1)]), [{"box": []}], "did you mean 'boxes'?"),
        (found([(LEFT, 0.9, 1)]), [there(LEFT, classes=[1, 2])], "got 2 for 1"),
    ],
)
def test_what_does_not_fit_is_told(outputs, targets, told):
    with pytest.raises(qir.QirError) as caught:
        precision((outputs, targets))
    assert told in str(caught.value)


def test_class_ids_that_a_code_misses_are_refused():
    """They would be no class that occurs, and the precision 0."""
    with pytest.raises(qir.QirError, match=r"whole numbers as class ids, got 1.02 in output 2"):
        precision((found([(LEFT, 0.9, 1.02)]), [there(LEFT)]))
    # What is none, by its score, may say anything.
    batch = found([(LEFT, 0.9, 1), (LEFT, 0.0, 1.02)]), [there(LEFT)]
    assert precision(batch) == pytest.approx(1.0)
