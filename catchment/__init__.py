"""The contract between tiers, and the command line that puts them together."""
