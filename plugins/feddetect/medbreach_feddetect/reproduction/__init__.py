"""The claims of arXiv:2210.10886, made again."""
