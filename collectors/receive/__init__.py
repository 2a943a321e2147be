"""Receivers: the protocols that senders speak."""
