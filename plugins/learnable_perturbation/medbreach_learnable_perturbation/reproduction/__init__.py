"""The tables of arXiv:2503.16542, made again."""
