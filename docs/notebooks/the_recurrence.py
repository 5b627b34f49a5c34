# %% [markdown]
# # The recurrence, step by step
#
# A frozen CLIP proposes a mask for every text (y), judges whether each mask shows its text (s), and drops the texts that fail
# (h). It does so again, with fewer texts, until nothing drops. Here all steps are looked at.

# %%
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from clip_as_rnn import load_segmenter

picture = np.asarray(Image.open("data/scenes/JPEGImages/heldout_277.jpg").convert("RGB"))
with open("data/scenes/classes.txt", encoding="utf-8") as file:
    texts = file.read().splitlines()
segmenter = load_segmenter("tiny")
result = segmenter.segment(picture, texts, trace=True)
for number, step in enumerate(result.trace.steps, start=1):
    print(f"step {number}: {len(step.texts)} texts, {len(step.dropped)} dropped")

# %% [markdown]
# ## What is proposed, and what falls
#
# A row per step, a column per text: the proposal y over the picture, with its score s. Red fell in this step. Shown are the texts that
# lived through step 1, and the two that came nearest to it.

# %%
first = result.trace.steps[0]
order = sorted(range(len(first.texts)), key=lambda i: (i not in first.kept, -first.scores[i]))
columns = [first.texts[i] for i in order[: len(first.kept) + 2]]
steps = result.trace.steps
figure, axes = plt.subplots(len(steps), len(columns), figsize=(13, 2 * len(steps)), layout="constrained", squeeze=False)
for row, step in zip(axes, steps, strict=True):
    proposals = step.proposals
    for ax, text in zip(row, columns, strict=True):
        ax.axis("off")
        if text in step.texts:
            i = step.texts.index(text)
            ax.imshow(picture.mean(2), cmap="gray", vmin=0, vmax=255)
            ax.imshow(proposals[i], cmap="magma", vmin=0, vmax=1, alpha=0.6)
            ax.set_title(f"{text}  {step.scores[i]:.2f}", color="black" if i in step.kept else "red", fontsize=10)
plt.show()

# %% [markdown]
# A score is a share among the texts that are left, so the scores of those who stay rise when rivals go, and masks change: that is
# why it asks again. Here the second step drops the house, the third nothing, and the loop ends. The line is theta. Dashed is what is not in the
# result.

# %%
figure, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
theta = segmenter.config.classify.threshold(len(texts))
for text in columns:
    path = [step.scores[step.texts.index(text)] for step in steps if text in step.texts]
    ax.plot(range(1, len(path) + 1), path, "o-" if text in result.texts else "x--", label=text)
ax.axhline(theta, color="gray", linewidth=1)
ax.set(xlabel="step", ylabel="score", ylim=(0, 1), xticks=range(1, len(steps) + 1))
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
plt.show()

# %% [markdown]
# The butterfly and the airplane passed every step and are not in the result: wherever they are proposed, others are stronger. The
# rocket is a mistake, of few pixels: the train's chimney.

# %%
[rejection for rejection in result.rejections if rejection.text in columns]

# %% [markdown]
# ## The dense CRF, before and after
#
# Proposals have four values per patch of 12 pixels. The CRF lets pixels of like color agree, and so finds the edges.

# %%
before = segmenter.replace(crf=False).segment(picture, list(result.texts))
after = segmenter.segment(picture, list(result.texts))
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
for ax, title, shown in zip(axes, ("the picture", "without the CRF", "with it"), (None, before, after), strict=True):
    ax.imshow(picture)
    if shown is not None:
        labels = shown.label_map()
        ax.imshow(np.ma.masked_equal(labels, 0), cmap="tab10", vmin=1, vmax=10, alpha=0.75, interpolation="nearest")
    ax.set_title(title)
    ax.axis("off")
plt.show()
