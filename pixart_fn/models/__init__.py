"""The models, each a few pure functions of a tree of weights, and what stands around them: tokenizer and sizes."""
