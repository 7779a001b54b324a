"""What peeling reads of a planted layer, and what that takes, beside other planted layers.

Prints how many records are read at several loads, how recovery falls with records a row and under
defenses, and what planting and decoding cost. By default on images that come with packages, with
small networks; with --images or --volumes on a folder's, with ResNets.

Seconds are of the processor. A record counts as read if the claim that is matched to it, one to one
over all, has a PSNR of at least 40 (or 30) dB. A claim is false if it is below 40 dB to every
record, and wrong if it is below 30 dB.
"""

import argparse
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib import pyplot as plt
from planted_layers import cost, curves, images, quality

POINTS = tuple(k / 10 for k in range(1, 13))
FEW = (0.25, 0.5, 0.75, 1.0)
PARTS = ("quality", "curve", "defenses", "cost")


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--images", type=Path, help="folder of pictures, one subfolder a class")
    arguments.add_argument("--volumes", type=Path, help="folder of NIfTI volumes, cut into blocks")
    arguments.add_argument("--side", type=int, help="side of pictures (224) or of blocks (64)")
    arguments.add_argument("--stride", type=int, default=8, help="voxels from block to block")
    arguments.add_argument("--seeds", type=int, default=2)
    arguments.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments.add_argument("--out", type=Path, help="folder for pictures of the curves")
    asked = arguments.parse_args()
    plt.switch_backend("Agg")
    warnings.simplefilter("ignore")  # what libraries say of their own future
    print(f"{torch.get_num_threads()} threads")
    for name, source in chosen(asked).items():
        if "quality" in asked.parts:
            quality.report(name, source, quality.LOADS, asked.seeds)
        if "curve" in asked.parts:
            found = {name: curves.recovery_curve(name, source, POINTS, asked.seeds)}
            draw(found, POINTS, asked.out, name)
        if "defenses" in asked.parts:
            defended = curves.defended_curves(name, source, FEW, asked.seeds)
            draw(defended, FEW, asked.out, f"{name}, defended")
        if "cost" in asked.parts:
            cost.report(name, source, quality.LOADS)
            if len(source.draw(1, 0).spec.space) == 3:
                cost.large_volumes(name, source)
                cost.growth(name, source)


def chosen(asked: argparse.Namespace) -> Mapping[str, images.Source]:
    """Return the images that are asked for, by name."""
    if asked.images:
        return images.folder(asked.images, asked.side or 224)
    if asked.volumes:
        return images.volumes(asked.volumes, asked.side or 64, asked.stride)
    return images.packaged()


def draw(
    panels: Mapping[str, curves.Curves], loads: Sequence[float], folder: Path | None, name: str
) -> None:
    """Draw curves beside the bounds, a panel a title, into a folder if there is one."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    size = (4 * columns + 2 * (columns == 1), 3.2 * rows + 0.8)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    records = [round(load * curves.ROWS) for load in loads]
    for panel, (title, found) in zip(axes.flat, panels.items(), strict=False):
        for key, shares in found.items():
            panel.plot(loads, shares, marker="o", markersize=3, label=key)
        bound = [curves.one_measurement(n) for n in records]
        panel.plot(loads, bound, "k:", label="alone in one measurement's bins")
        panel.plot(loads, [curves.ceiling(n) for n in records], "k-.", label="one record a row")
        panel.set_title(title, fontsize=10)
        panel.set_ylim(-0.03, 1.05)
    for panel in axes.flat[len(panels) :]:
        panel.axis("off")
    figure.supxlabel("records a row")
    figure.supylabel("share of records shown at 30 dB or more")
    lines, words = axes[0, 0].get_legend_handles_labels()
    figure.legend(lines, words, loc="outside upper center", ncols=2 if columns == 1 else 5)
    place = folder / f"{re.sub(r'[^a-z0-9]+', '-', name.lower())}.png"
    figure.savefig(place, dpi=100)
    plt.close(figure)
    print(f"\nThe curves are in {place}")


if __name__ == "__main__":
    main()
