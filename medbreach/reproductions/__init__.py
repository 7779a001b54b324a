"""Published results, made again under a protocol that is written down."""
