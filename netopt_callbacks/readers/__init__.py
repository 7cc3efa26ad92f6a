"""Who else reads the network of a trainer, and which parts of two graphs correspond."""
