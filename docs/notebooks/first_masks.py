# %% [markdown]
# # First masks
#
# A picture and any words in; masks out, and which words are not there. This runs offline, on the bundled CLIP: small, trained on
# drawings. For photographs say `load_segmenter("default")`, which fetches OpenAI's CLIPs once.

# %%
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from clip_as_rnn import load_segmenter

picture = np.asarray(Image.open("examples/park.jpg").convert("RGB"))
segmenter = load_segmenter("tiny")
result = segmenter.segment(picture, ["dog", "car", "tree", "cat", "banana"])
result

# %% [markdown]
# Three words were found. Each has a mask at the picture's size and a score:

# %%
figure, axes = plt.subplots(1, len(result) + 1, figsize=(12, 3), layout="constrained")
axes[0].imshow(picture)
axes[0].set_title("the picture")
for ax, text, mask, score in zip(axes[1:], result.texts, result.masks, result.scores, strict=True):
    ax.imshow(np.where(mask[..., None], picture, 255 - (255 - picture) // 6))
    ax.set_title(f"{text}  {score:.2f}")
for ax in axes:
    ax.axis("off")
plt.show()

# %% [markdown]
# The other two were rejected: nothing in the picture shows them. A segmenter that must always answer would have painted them, too.

# %%
for rejection in result.rejections:
    print(f"{rejection.text}: {rejection.reason}, {rejection.score:.2f}, in step {rejection.step}")

# %% [markdown]
# All masks in one label map: 0 is background, i + 1 is `texts[i]`. As COCO annotations: `result.to_coco()`.

# %%
labels = result.label_map()
{text: int((labels == i).sum()) for i, text in enumerate(("background", *result.texts))}

# %% [markdown]
# The picture's pass through the encoders is most of the work. Where more than one thing is asked of a picture, it is done once:

# %%
image = segmenter.encode(picture)
[segmenter.segment(image, [text]).texts for text in ("dog", "zebra")]
