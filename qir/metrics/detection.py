"""coco-map: the average precision of detected boxes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from math import nan
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from qir.errors import QirError, did_you_mean, kind_of
from qir.metrics.libraries import library
from qir.metrics.registry import Answers, Metric, metric
from qir.types import Array, format_shape

FIELDS = ("boxes", "classes", "crowd")
"""What targets say of an image; `crowd` may be left out."""


class Detections(NamedTuple):
    """Boxes of a batch, or of all, one behind the other.

    Args:
        image: The number of each box's image, [boxes].
        boxes: Left, top, width and height, [boxes, 4].
        classes: Class ids, [boxes].
        marks: Scores of detections, [boxes]; of what is there, 1 for a crowd and 0 otherwise.
    """

    image: Array
    boxes: Array
    classes: Array
    marks: Array


@metric("coco-map")
class DetectionPrecision(Metric):
    """Mean average precision of detections, by COCO's rules (Lin et al., 2014; pycocotools).

    It is averaged over classes that occur and over ten overlaps from 0.5 to 0.95. Outputs are boxes
    [images, boxes, 4], scores and class ids [images, boxes]; detections of score 0 or less are
    none. Targets are a list with a dict for each image: `boxes` [boxes, 4] of the same form,
    `classes` [boxes] and, if there are any, `crowd` [boxes] of 0 and 1.

    Args:
        form_of_boxes: What the four numbers of a box are: `xyxy` for left, top, right and bottom,
            `yxyx` for top, left, bottom and right, `xywh` for left, top, width and height.
        boxes: Which output holds the boxes, counted from 0.
        scores: Which one holds the scores.
        classes: Which one holds the class ids.
        overlap: The only intersection over union at which to compare, such as 0.5; those of COCO
            when left out.
        most: Detections of an image that count, the best ones, of each class.
    """

    form_of_boxes: Literal["xyxy", "yxyx", "xywh"] = "xyxy"
    boxes: int = 0
    scores: int = 1
    classes: int = 2
    overlap: float | None = None
    most: int = 100

    reads_all: ClassVar[bool] = True

    def check(self) -> None:
        """Raises QirError for options out of bounds."""
        if self.overlap is not None and not 0 < self.overlap <= 1:
            raise QirError(f"coco-map: expected overlap in (0, 1], got {self.overlap}")
        if self.most < 1:
            raise QirError(f"coco-map: expected most to be at least 1, got {self.most}")
        if min(self.boxes, self.scores, self.classes) < 0:
            raise QirError("coco-map: expected outputs counted from 0, got a negative number")

    def prepare(self) -> None:
        """Raises QirError where pycocotools is not installed."""
        library("pycocotools.cocoeval", "pycocotools")

    def part(self, answers: Answers) -> tuple[int, Detections, Detections]:
        """Keeps how many images a batch has, what was found in them, and what is there."""
        needed = max(self.boxes, self.scores, self.classes) + 1
        if len(answers.outputs) < needed:
            raise QirError(
                f"expected {needed} outputs, boxes, scores and classes, got {len(answers.outputs)}"
            )
        boxes, scores, classes = (
            answers.outputs[index] for index in (self.boxes, self.scores, self.classes)
        )
        if (
            boxes.ndim != 3
            or boxes.shape[2] != 4
            or not scores.shape == classes.shape == boxes.shape[:2]
        ):
            shapes = ", ".join(format_shape(each.shape) for each in (boxes, scores, classes))
            raise QirError(
                "expected boxes [images, boxes, 4], scores and classes [images, boxes], got "
                f"{shapes}; boxes=, scores= and classes= say which output is which"
            )
        count = len(boxes)
        found = ~(scores <= 0)
        wrong = classes[found & np.isfinite(classes) & (classes != np.rint(classes))]
        if wrong.size:
            raise QirError(
                f"expected whole numbers as class ids, got {wrong[0]:.6g} in output "
                f"{self.classes}: the steps of a code miss them; keep_float for what makes the ids "
                "keeps them whole"
            )
        image = np.broadcast_to(np.arange(count)[:, None], scores.shape)
        detected = Detections(
            image[found], self._corners(boxes[found]), classes[found], scores[found]
        )
        return count, detected, self._there(answers.targets, count)

    def _there(self, targets: Any, count: int) -> Detections:
        if not isinstance(targets, Sequence) or len(targets) != count:
            got = f"{len(targets)}" if isinstance(targets, Sequence) else kind_of(targets)
            raise QirError(f"expected a list of {count} dicts, one an image, as targets, got {got}")
        parts = []
        for number, given in enumerate(targets):
            if not isinstance(given, Mapping):
                raise QirError(f"expected a dict for image {number}, got {kind_of(given)}")
            for key in given:
                if key not in FIELDS:
                    raise QirError(
                        f"expected boxes, classes and crowd of image {number}, got '{key}'"
                        f"{did_you_mean(str(key), FIELDS)}"
                    )
            if missing := [key for key in FIELDS[:2] if key not in given]:
                raise QirError(f"expected '{missing[0]}' of image {number}, got none")
            boxes = np.asarray(given["boxes"], np.float64).reshape(-1, 4)
            classes = np.asarray(given["classes"]).reshape(-1)
            crowd = np.asarray(given.get("crowd", np.zeros(len(boxes)))).reshape(-1)
            if not len(boxes) == len(classes) == len(crowd):
                raise QirError(
                    f"expected a class for each box of image {number}, got {len(classes)} for "
                    f"{len(boxes)}"
                )
            parts.append(
                Detections(np.full(len(boxes), number), self._corners(boxes), classes, crowd)
            )
        return _joined(parts)

    def _corners(self, boxes: Array) -> Array:
        """Returns left, top, width and height of boxes."""
        boxes = boxes.astype(np.float64)
        if self.form_of_boxes == "yxyx":
            boxes = boxes[:, [1, 0, 3, 2]]
        if self.form_of_boxes != "xywh":
            boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        return boxes

    def total(self, parts: Sequence[tuple[int, Detections, Detections]]) -> float:
        """Compares by COCO's rules."""
        coco = library("pycocotools.coco", "pycocotools")
        evaluation = library("pycocotools.cocoeval", "pycocotools")
        starts = np.cumsum([0, *(part[0] for part in parts)])
        found = _joined([_placed(part[1], at) for part, at in zip(parts, starts, strict=False)])
        there = _joined([_placed(part[2], at) for part, at in zip(parts, starts, strict=False)])
        if not len(there.image) or any(
            np.isnan(part).any() for part in (found.marks, found.boxes, found.classes)
        ):
            return nan
        categories = np.unique(there.classes)
        known = np.isin(found.classes, categories)
        found = Detections(*(array[known] for array in found))
        if not len(found.image):
            return 0.0
        # Its classes are told apart by ids; it prints what it does.
        with redirect_stdout(io.StringIO()):
            right, said = coco.COCO(), coco.COCO()
            right.dataset = _dataset(there, int(starts[-1]), categories, "iscrowd")
            said.dataset = _dataset(found, int(starts[-1]), categories, "score")
            right.createIndex()
            said.createIndex()
            judge = evaluation.COCOeval(right, said, "bbox")
            judge.params.maxDets = [self.most]
            judge.params.areaRng, judge.params.areaRngLbl = [[0, np.inf]], ["all"]
            if self.overlap is not None:
                judge.params.iouThrs = np.array([self.overlap])
            judge.evaluate()
            judge.accumulate()
        precision = judge.eval["precision"]
        return float(precision[precision > -1].mean()) if (precision > -1).any() else nan


def _joined(parts: Sequence[Detections]) -> Detections:
    return Detections(*map(np.concatenate, zip(*parts, strict=True)))


def _placed(boxes: Detections, start: int) -> Detections:
    """Numbers the images of a batch from another one on."""
    return boxes._replace(image=boxes.image + start)


def _dataset(boxes: Detections, images: int, categories: Array, mark: str) -> dict[str, Any]:
    """Returns boxes as pycocotools has them."""
    return {
        "images": [{"id": number} for number in range(images)],
        "categories": [{"id": int(each)} for each in categories],
        "annotations": [
            {
                "id": number,
                "image_id": int(image),
                "category_id": int(kind),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3]),
                "iscrowd": 0,
                mark: float(value) if mark == "score" else int(value),
            }
            for number, (image, box, kind, value) in enumerate(zip(*boxes, strict=True), 1)
        ],
    }
