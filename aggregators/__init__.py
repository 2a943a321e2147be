"""The regional tier: roll-ups of what a region's collectors send, over the Log port."""
