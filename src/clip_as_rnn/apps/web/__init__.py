"""The web page of `car web`: a thin layer of Gradio over a segmenter, no logic of segmentation in it."""
