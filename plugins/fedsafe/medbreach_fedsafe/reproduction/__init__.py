"""The experiments of the source, made again."""
