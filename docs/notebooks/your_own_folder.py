# %% [markdown]
# # Evaluate your own folder
#
# Pictures, label images and a list of names, laid out as Pascal VOC does, are a data set that `car evaluate scenes` takes. Here a
# small one is made of ten bundled scenes; put your own files in their place.
#
# | file | holds |
# |---|---|
# | `JPEGImages/NAME.jpg` | the pictures |
# | `SegmentationClass/NAME.png` | 0 is background, i is line i of `classes.txt`, 255 counts nowhere |
# | `classes.txt` | the names that are asked, one a line |
# | `ImageSets/Segmentation/SPLIT.txt` | which pictures, one NAME a line |

# %%
import json
import shutil
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

scenes, mine, out = Path("data/scenes"), Path("out/notebooks/mine"), Path("out/notebooks/evaluated")
names = [f"heldout_{i:03}" for i in range(30, 40)]
for old in (mine, out):
    shutil.rmtree(old, ignore_errors=True)
for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png")):
    (mine / folder).mkdir(parents=True)
    for name in names:
        shutil.copy(scenes / folder / f"{name}.{suffix}", mine / folder)
shutil.copy(scenes / "classes.txt", mine)
split = mine / "ImageSets" / "Segmentation" / "mine.txt"
split.parent.mkdir(parents=True)
split.write_text("\n".join(names) + "\n")

# %% [markdown]
# One command scores it and writes everything that the numbers depend on beside them. Typed again, it goes on where it was.

# %%
command = f"car evaluate scenes --root {mine} --split mine --preset tiny -o {out} --save-predictions"
print(subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout)

# %% [markdown]
# ## Which names are good
#
# The report is data, too: `report.json` holds all of `report.md`. The IoU of the names that the pictures show:

# %%
report = json.loads((out / "report.json").read_text())
for row in report["body"]["classes"]:
    if row["pixels"]:
        print(f"{row['name']:12} {100 * row['ious']['with_background']:5.1f}")

# %% [markdown]
# ## Truth and prediction

# %%
figure, axes = plt.subplots(3, 5, figsize=(12, 6.6), layout="constrained")
for column, name in zip(axes.T, names[:5], strict=True):
    picture = Image.open(mine / "JPEGImages" / f"{name}.jpg")
    truth = np.asarray(Image.open(mine / "SegmentationClass" / f"{name}.png"))
    found = np.asarray(Image.open(out / "predictions" / f"{name}.png"))
    column[0].imshow(picture)
    for ax, labels in zip(column[1:], (truth, found), strict=True):
        ax.imshow(np.ma.masked_equal(labels, 0), cmap="tab20", vmin=1, vmax=40, interpolation="nearest")
for ax, title in zip(axes[:, 0], ("picture", "truth", "found"), strict=True):
    ax.set_ylabel(title)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
plt.show()
