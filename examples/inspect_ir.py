"""Reads, edits and runs the textual form: what each pass did, what a change of one number does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import qir

PROGRAM = """
graph @edges(%image: f32[1,6,6,1]) {
  %kernel = const [[[[0.5, -0.25]], [[0.5, 0.25]]], [[[-0.5, -0.25]], [[-0.5, 0.25]]]]
    : f32[2,2,1,2]
  %edges = conv(%image, %kernel) : f32[1,5,5,2]
  %strength = relu(%edges) : f32[1,5,5,2]
  %score = tanh(%strength) : f32[1,5,5,2]
  return %score
}
"""


def main() -> None:
    """Quantizes a program given as text, looks at it, edits it and runs both versions."""
    graph = qir.parse(PROGRAM)
    images = [
        np.random.default_rng(seed).uniform(0, 1, (1, 6, 6, 1)).astype(np.float32)
        for seed in range(8)
    ]

    with tempfile.TemporaryDirectory() as folder:
        integer = qir.quantize(graph, images, dump_dir=folder)
        print("the text after every pass that changed it:")
        for file in sorted(Path(folder).iterdir()):
            print(f"  {file.name}: {len(file.read_text().splitlines())} lines")

    print(f"\n{integer}\n\n{qir.explain(integer)}")

    # A program is its text: parse(str(graph)) is the same graph, an edit changes the program.
    arrays = qir.to_program(integer).arrays
    text = str(integer)
    assert qir.parse(text, arrays) == integer
    scale = str(integer.value("image.q").type).split("scale=")[1].rstrip("}").split(",")[0]
    coarse = qir.parse(text.replace(scale, str(np.float32(float(scale) * 8))), arrays)
    for name, program in (("as quantized", integer), ("image in steps 8 times as large", coarse)):
        (score,) = qir.evaluate(program, images[0])
        (wanted,) = qir.evaluate(graph, images[0])
        print(f"{name}: largest error {np.abs(score - wanted).max():.4f}")

    try:
        qir.parse(text.replace("lookup(", "lookpu("), arrays)
    except qir.QirError as error:
        print(f"\nan error shows the line:\n{error}")


if __name__ == "__main__":
    main()
