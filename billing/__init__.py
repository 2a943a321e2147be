"""The billing tier: comes with its issue."""
